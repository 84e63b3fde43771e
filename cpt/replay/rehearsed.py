"""The old rows of one replay: read with the past, chosen when there is a model to look at them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cpt.data import Reader, Rows
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.errors import HookError
from cpt.old_rows import cleaned, open_source
from cpt.past import Past, PastStage
from cpt.replay.choice import Choice, Load, chosen_of_source, chosen_of_stages
from cpt.replay.pool import Part, parts_of
from cpt.replay.settings import BufferSpec, Select
from cpt.rows import Row, RowFormat, format_of

if TYPE_CHECKING:
    from cpt.hooks.context import StageContext


@dataclass
class Rehearsed:
    """Rows of earlier stages, or of a data set.

    Attributes:
        label: what is rehearsed, for people.
        of, source, buffer, select, score: as a person wrote them; `of` where there is no source.
        in_loss: whether they are in a loss of their own, and not among the stage's rows: then rows of every
            format will do, and the stage's hygiene has to look at them here.
        parts: of the stages, once they are read.
        parent: the stage that this one starts from.
    """

    label: str
    of: str | list[str]
    source: DataSpec | None
    buffer: BufferSpec | None
    select: Select
    score: str | None
    in_loss: bool
    parts: list[Part] = field(default_factory=list)
    parent: PastStage | None = None

    @property
    def max_bad(self) -> float:
        """Share of bad rows that is tolerated."""
        return self.source.max_bad if self.source else MAX_BAD

    @property
    def is_chosen(self) -> bool:
        """Whether rows are looked at, rather than sampled."""
        return self.select not in ("uniform", "collateral")

    def read(self, past: Past, ctx: "StageContext") -> None:
        """Read what the stages left; a data set is read when it is used.

        Raises:
            HookError: there is nothing to rehearse, a buffer that cannot be filled, or rows of a format that
                the stage cannot train on.
        """
        self.parent = past[-1]
        if self.source is not None:
            return
        self.parts = parts_of(past, self.of, self.buffer, ctx.seed, not self.is_chosen)
        if self.in_loss:
            self.parts = [
                replace(part, rows=cleaned(part.rows, f"replay of {part.stage.name}", ctx))
                for part in self.parts
            ]
            return
        found = {str(format_of(row, ctx.formats)) for part in self.parts for row in part.rows}
        if strange := found - set(ctx.formats):
            raise HookError(
                f"replay: a {ctx.kind} stage trains on {' or '.join(ctx.formats)} rows and cannot mix in "
                f"{', '.join(sorted(strange))} rows; name a `source:` of its own format, or rehearse them "
                f"with mode: loss"
            )

    def rows(
        self, load: Load, formats: tuple[RowFormat, ...], most: int | None, ctx: "StageContext"
    ) -> tuple[Sequence[Row] | Rows | Reader, list[str]]:
        """What is rehearsed, and how it was chosen.

        Args:
            load: an earlier stage's model.
            formats: of a data set's rows.
            most: rows of a data set, where no buffer says how many; None: all.
        """
        choice = None
        if self.is_chosen:
            assert self.parent is not None
            choice = Choice(self.select, self.score, self.parent, self.max_bad, load, ctx)
        if self.source is None:
            return chosen_of_stages(self.parts, choice)
        size = self.buffer.size if self.buffer else most
        drawn = size if choice is None else None
        opened = open_source(self.source, formats, drawn, f"{ctx.seed}/reservoir")
        if self.in_loss and isinstance(opened, Rows):
            kept = cleaned(opened.rows, self.label, ctx)
            opened = replace(opened, rows=kept, numbers=[*range(1, len(kept) + 1)])
        return chosen_of_source(opened, size, choice)
