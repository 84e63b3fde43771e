"""Data configs -> rows. Bad rows are counted, reported, and refused beyond a limit."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cpt.data_spec import DataSpec
from cpt.errors import DataError
from cpt.files import read_file, read_json
from cpt.net import KEPT, is_passing, resumed
from cpt.row_table import JsonLines, RowTable, Spool
from cpt.rows import BROKEN, REQUIRED, Row, RowFormat, explicit, fault, format_of

#: Of a stream that is mostly bad the end is not waited for.
ROWS_BETWEEN_CHECKS = 10_000


@dataclass(frozen=True)
class Rows:
    """Rows of one source with the count of what was left out.

    Attributes:
        numbers: of each row, its number in the source, from 1.
    """

    spec: DataSpec
    rows: Sequence[Row]
    format: RowFormat
    num_bad: int
    examples_of_bad: tuple[str, ...] = ()
    numbers: Sequence[int] = ()

    @property
    def num_good(self) -> int:
        """Of rows."""
        return len(self.rows)


class Reader:
    """The rows of one part of a data set as they arrive, once, with the count of what was left out so far.

    Attributes:
        format: of the first row that has one.
        num_good, num_bad: rows that arrived, and that were left out.
        wants: whether a good row is wanted; others are passed over and count as neither.
    """

    def __init__(
        self,
        spec: DataSpec,
        formats: tuple[RowFormat, ...],
        part: Literal["train", "validation"] = "train",
        raw: Iterable[Row] | None = None,
    ) -> None:
        self.spec, self.formats, self.part, self._raw = spec, formats, part, raw
        self.format: RowFormat | None = None
        self.num_good = self.num_bad = 0
        self.examples_of_bad: tuple[str, ...] = ()
        self.wants: Callable[[Row], bool] | None = None
        self._columns: dict[str, None] = {}

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """(number in the source, from 1; row) of the good ones.

        Raises:
            DataError: missing data, a format that the stage does not take; of a stream, which may have no
                end, also what `check` refuses.
        """
        spec = self.spec
        limit = spec.limit if self.part == "train" else spec.validation and spec.validation.limit
        raw_rows = _raw(spec, self.part) if self._raw is None else self._raw
        for number, raw in _part(spec, self.part, raw_rows):
            self._columns |= dict.fromkeys(raw)
            row = self.row_of(raw)
            self.format = self.format or format_of(row, self.formats)
            reason = fault(row, self.format)
            if reason is None:
                self._refuse_another_format()
                if self.wants is not None and not self.wants(row):
                    continue
                self.num_good += 1
                yield number, row
            else:
                self.num_bad += 1
                self.examples_of_bad = (*self.examples_of_bad, f"row {number}: {reason}")[:3]
            if limit and self.num_good >= limit:
                break
            if spec.streaming and (self.num_good + self.num_bad) % ROWS_BETWEEN_CHECKS == 0:
                self.check()

    def row_of(self, raw: Row) -> Row:
        """A row with our columns."""
        columns = self.spec.columns
        row = {key: value for key, value in raw.items() if key not in columns.values()}
        row |= {ours: raw.get(theirs) for ours, theirs in columns.items()}
        return explicit(row, self.spec.as_chat)

    def check(self) -> None:
        """Refuse what arrived.

        Raises:
            DataError: nothing did, nothing that can be used, or too many bad rows.
        """
        total = self.num_good + self.num_bad
        if total == 0:
            raise DataError(f"data {self.spec.label}: has no rows ({self.part})")
        if not self.num_good:
            columns = ", ".join(map(repr, self._columns.keys() - {BROKEN})) or "none"
            raise DataError(
                f"data {self.spec.label}: no usable row of {total}; {self.examples_of_bad[0]}; its "
                f"columns are {columns}; map them with columns: {{ours: theirs}}"
            )
        refuse_beyond(self.spec.max_bad, self.num_bad, total, self.examples_of_bad, self.spec.label)

    def _refuse_another_format(self) -> None:
        if self.format is not None and self.format not in self.formats:
            chats = {"messages", "completion"} - {*self.formats}
            instead = "; train on answers with kind: sft" if self.format in chats else ""
            raise DataError(
                f"data {self.spec.label}: rows have the format {self.format!r} "
                f"({', '.join(REQUIRED[self.format])}); this stage takes "
                f"{' or '.join(self.formats)}{instead}"
            )


def load_rows(
    spec: DataSpec,
    formats: tuple[RowFormat, ...],
    part: Literal["train", "validation"] = "train",
) -> Rows:
    """Read all rows of one part of a data set; later they are read again, each from where it lies.

    Args:
        spec: the data set.
        formats: what the stage can train on.
        part: training rows or the held-out ones.

    Raises:
        DataError: missing or empty data, a format that the stage does not take, too many bad rows.
    """
    lines = _json_lines(spec, part)
    reader = Reader(spec, formats, part, lines)
    spool = Spool()
    numbers, places = array("q"), array("q")
    for number, row in reader:
        numbers.append(number)
        places.append(spool.add(row) if lines is None else lines.place)
    reader.check()
    assert reader.format is not None, "a good row has a format"
    read = spool.read if lines is None else partial(_again, lines, reader)
    return Rows(
        spec, RowTable(read, places), reader.format, reader.num_bad, reader.examples_of_bad, numbers
    )


def _again(lines: JsonLines, reader: Reader, place: int) -> Row:
    return reader.row_of(lines.read(place))


def open_rows(spec: DataSpec, formats: tuple[RowFormat, ...]) -> Rows | Reader:
    """The training rows of a data set: all of them, or of a streamed one as they arrive.

    Raises:
        DataError: as `load_rows`; of a streamed one, when it is read.
    """
    return Reader(spec, formats) if spec.streaming else load_rows(spec, formats)


def refuse_beyond(
    max_bad: float, num_bad: int, total: int, examples: Sequence[str], name: str
) -> None:
    """Tolerate a share of bad rows, and no more.

    Raises:
        DataError: more than `max_bad` of all rows are bad; `examples` says why.
    """
    if num_bad > max_bad * total:
        raise DataError(
            f"data {name}: {num_bad} of {total} rows are bad, more than max_bad {max_bad:g} allows; "
            f"{'; '.join(examples)}"
        )


def _part(spec: DataSpec, part: str, raw: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """(row number from 1, row) of one part."""
    held_out = spec.validation
    rows = enumerate(raw, start=1)
    if held_out is None or held_out.fraction is None:
        return rows
    # A share of the rows: every k-th one, so that a longer file keeps its split.
    every = max(2, round(1 / held_out.fraction))
    wanted = part == "validation"
    return ((number, row) for number, row in rows if (number % every == 0) == wanted)


def _view(spec: DataSpec, part: str) -> Path:
    """Where a builder wrote the rows of a part."""
    from cpt.corpora import views

    assert spec.builder
    held_out = spec.validation if part == "validation" else None
    view = held_out.view if held_out and held_out.view else spec.view
    return views(spec.builder, spec.source) / f"{view}.jsonl"


def _json_lines(spec: DataSpec, part: str) -> JsonLines | None:
    """The lines of a data set that can be read by position, else None."""
    if spec.builder:
        return JsonLines.of([_view(spec, part)], "json")
    return JsonLines.of(spec.existing_files(), spec.format) if spec.is_local else None


def _raw(spec: DataSpec, part: str) -> Iterator[Row]:
    if spec.builder:
        return read_json(_view(spec, part))
    held_out = spec.validation if part == "validation" else None
    if spec.is_local:
        return (row for file in spec.existing_files() for row in read_file(file, spec.format))
    return _hub(spec, held_out.split if held_out and held_out.split else spec.split)


def _hub(spec: DataSpec, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    def start() -> Iterator[Row]:
        return iter(
            load_dataset(
                str(spec.path),
                spec.name,
                revision=spec.revision,
                split=split,
                streaming=spec.streaming,
            )
        )

    try:
        yield from resumed(start, f"data {spec.label}")
    except Exception as error:
        # No such data set or split, no network; what a library raises for that may be no OSError.
        if not isinstance(error, OSError | ValueError) and not is_passing(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        later = KEPT if is_passing(error) else ""
        raise DataError(
            f"data {spec.label}: cannot be read from the hub: {first}{later}"
        ) from error
