"""Rehearsal: a share of the stream comes from earlier stages or from a general corpus."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cpt.data import open_rows
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.errors import HookError
from cpt.hooks.base import Hook, Mixture, OldRows, StageContext
from cpt.hooks.card import Card
from cpt.past import Past
from cpt.rows import Row, format_of


@dataclass
class Replay(Hook):
    """Experience replay in the data stream.

    share = old / (old + new) of the stage's final stream, in tokens unless `unit` says samples: with new
    data N and the shares of all replay entries summing to s, entry i adds share_i / (1 - s) * N, drawn
    without replacement per cycle. New data are never truncated. share 0 changes nothing.

    Settings:
        of: the earlier stages whose exemplars are rehearsed; `previous`, `all`, or names.
        source: a data set instead; the base model has no exemplars.
        share: of the final stream, in [0, 1).
        unit: what the share counts.

    Source: Rolnick et al. 2019, arXiv:1811.11682; `methods.md` A06, A24.
    """

    name: ClassVar[str] = "replay"
    card: ClassVar = Card(
        family="replay",
        formula="""share = old / (old + new) of the stage's final stream
loss  = mean over all label tokens of the mixed stream""",
        when="First of all, wherever earlier data or a general corpus can be read again. Begin "
        "with a share of 0.1 to 0.3 in sft, 0.05 to 0.5 in pretrain, more the further the new "
        "data are from the old.",
        cost="No extra pass: a step costs what it did. At equal new tokens the stage has 1 / (1 - "
        "share) times the steps.",
        state="0",
        fails="A small set repeated for many epochs is learnt by heart (the log tells the "
        "epochs). Old rows in another chat template teach that template. Rows that a probe asks "
        "make the probe worthless.",
        evidence="production-validated",
        sources=(
            "Rolnick et al. 2019, arXiv:1811.11682",
            "Ibrahim et al. 2024, arXiv:2403.08763 (continual pretraining)",
            "Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (pretraining data mixed into RL)",
            "methods.md A06, A24",
        ),
    )

    of: str | list[str] | None = None
    source: DataSpec | None = None
    share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    unit: Literal["tokens", "samples"] = "tokens"
    rows: list[Row] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.of is not None and self.source is not None:
            raise ValueError("name either `of` (earlier stages) or `source` (a data set)")
        if self.of is None and self.source is None:
            self.of = "previous"

    def recalls(self) -> tuple[str, ...]:
        """The stages whose exemplars are read."""
        if self.of is None:
            return ()
        return (self.of,) if isinstance(self.of, str) else tuple(self.of)

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the exemplars.

        Raises:
            HookError: there is nothing to rehearse, or rows of a format that the stage cannot train on.
        """
        if self.share == 0 or self.source is not None:
            return
        stages = past.select(self.of or "previous")
        self.rows = [row for stage in stages for row in stage.rows()]
        if not self.rows:
            raise HookError(
                f"replay of {', '.join(stage.name for stage in stages)}: no exemplars there; "
                f"name a `source:` instead (the base model has none)"
            )

        strange = {str(format_of(row, ctx.formats)) for row in self.rows} - set(ctx.formats)
        if strange:
            raise HookError(
                f"replay: a {ctx.kind} stage trains on {' or '.join(ctx.formats)} rows and cannot mix in "
                f"{', '.join(sorted(strange))} rows; name a `source:` of its own format"
            )

    def mix(self, data: Mixture, ctx: StageContext) -> Mixture:
        """Add the rows with their share; the stage makes the stream for all sources at once."""
        if self.share > 0:
            # A whole corpus, which only the process that mixes reads.
            rows = open_rows(self.source, ctx.formats) if self.source is not None else self.rows
            max_bad = self.source.max_bad if self.source else MAX_BAD
            label = self.source.label if self.source else "-".join(self.recalls())
            name = f"replay of {label}"
            taken = sum(old.name == name for old in data.old)
            data.old.append(
                OldRows(
                    name if not taken else f"{name} {taken + 1}",
                    rows,
                    self.share,
                    self.unit,
                    max_bad,
                )
            )
        return data
