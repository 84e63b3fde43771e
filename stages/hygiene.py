"""Rows that a stage leaves out before shares are computed: duplicates, and items of the chain's probes."""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from cpt.data import Reader
from cpt.errors import DataError
from cpt.recipe import HygieneSpec
from cpt.replay.hygiene import Duplicates, ProbeItems, words_of
from cpt.row_table import RowTable
from cpt.rows import Row

#: What the probes of the chain ask, read when a row is first compared with them; None without a suite.
MakeItems = Callable[[], ProbeItems] | None


class Hygiene:
    """Looks at the sources of one stage, one after the other: a row of a later one repeats an earlier one."""

    def __init__(
        self, spec: HygieneSpec, make_items: MakeItems, folder: Path | None = None
    ) -> None:
        """Prepare to look.

        Args:
            spec: what is left out.
            make_items: what the probes of the chain ask.
            folder: where rows are remembered, in files without a name.

        Raises:
            DataError: probes are asked for and there are none.
        """
        if spec.probes in ("drop", "refuse") and make_items is None:
            raise DataError(
                f"hygiene: probes: {spec.probes}, and there is no suite to take them from; name one under "
                f"`probes:` in the chain (by hand: suite=<file>)"
            )
        self.spec = spec
        self._make_items = make_items
        self._items: ProbeItems | None = None
        self._duplicates = (
            Duplicates(spec.duplicates == "near", folder) if spec.duplicates != "keep" else None
        )

    def of(self, name: str, is_new: bool) -> "SourceHygiene":
        """For one source."""
        wanted = self.spec.probes or ("keep" if is_new else "refuse")
        items = None
        if wanted != "keep" and self._make_items is not None:
            if self._items is None:
                self._items = self._make_items()
            items = self._items if len(self._items) else None
        return SourceHygiene(name, self._duplicates, items, wanted == "refuse")


class SourceHygiene:
    """What is left out of one source, and how much of it there was.

    Attributes:
        num_exact, num_near, num_probes: rows that were found.
    """

    def __init__(
        self, name: str, duplicates: Duplicates | None, items: ProbeItems | None, refuses: bool
    ) -> None:
        self.name = name
        self.num_exact = self.num_near = self.num_probes = self.num_rows = 0
        self._duplicates, self._items, self._refuses = duplicates, items, refuses
        self._example = ""

    @property
    def looks(self) -> bool:
        """Whether it looks at the rows at all."""
        return self._duplicates is not None or self._items is not None

    @property
    def num_kept(self) -> int:
        """Rows that were looked at and stay."""
        return self.num_rows - self.num_exact - self.num_near - self.num_probes

    def keeps(self, row: Row) -> bool:
        """Whether a row stays; counts it."""
        self.num_rows += 1
        found = words_of(row)
        if self._items is not None and self._items.are_in_words(found):
            self.num_probes += 1
            self._example = self._example or str(next(iter(row.values())))[:80]
            return self._refuses  # `check` refuses them all at once
        kind = self._duplicates.kind_of_words(found) if self._duplicates is not None else None
        self.num_exact += kind == "exact"
        self.num_near += kind == "near"
        return kind is None

    def filtered(
        self, rows: Sequence[Row] | Reader, numbers: Sequence[int] = ()
    ) -> tuple[Sequence[Row] | Reader, Sequence[int]]:
        """The rows that stay, and their numbers in the source; rows that arrive are looked at as they do.

        Raises:
            DataError: what `check` refuses; no row is left.
        """
        if not self.looks:
            return rows, numbers
        if isinstance(rows, Reader):
            rows.wants = self.keeps
            return rows, numbers
        places = array("q", (place for place, row in enumerate(rows) if self.keeps(row)))
        self.check()
        if rows and not places:
            raise DataError(f"data {self.name}: {self.told()}, and no row is left")
        left = (
            rows.take(places) if isinstance(rows, RowTable) else [rows[place] for place in places]
        )
        return left, array("q", (numbers[place] for place in places)) if numbers else ()

    def check(self) -> None:
        """Refuse a source, once it is read.

        Raises:
            DataError: it holds items of probes, and these are refused.
        """
        if self._refuses and self.num_probes:
            raise DataError(
                f"data {self.name}: {self.num_probes} of {self.num_rows} rows hold items of the chain's "
                f"probes ({self._example!r} ...), which then no longer measure what is retained; leave them "
                f"out with hygiene: {{probes: drop}} in the stage, or say hygiene: {{probes: keep}}"
            )

    def told(self) -> str:
        """What was left out, in words; empty where nothing was."""
        duplicates = self.num_exact + self.num_near
        parts = []
        if duplicates:
            near = f", {self.num_near} of them near ones" if self.num_near else ""
            parts.append(f"{duplicates} duplicates{near}")
        if self.num_probes:
            parts.append(f"{self.num_probes} rows with items of probes")
        return f"left out {' and '.join(parts)}" if parts else ""

    def counts(self) -> dict[str, int]:
        """For the manifest; nothing where nothing was looked for."""
        found = {}
        if self._duplicates is not None:
            found = {"exact_duplicates": self.num_exact, "near_duplicates": self.num_near}
        if self._items is not None:
            found["probe_items"] = self.num_probes
        return found


def clean_rows(
    spec: HygieneSpec,
    make_items: MakeItems,
    note: Callable[[SourceHygiene], None],
    name: str,
    rows: Sequence[Row],
) -> Sequence[Row]:
    """Rows that are used beside the stream, as those within it are looked at.

    Args:
        note: told what was found, where anything was looked for.

    Raises:
        DataError: they hold items of probes, and these are refused; no row is left.
    """
    look = Hygiene(spec, make_items).of(name, is_new=False)
    kept, _ = look.filtered(rows)
    assert not isinstance(kept, Reader)
    if look.looks:
        note(look)
    return kept
