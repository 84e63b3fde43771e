"""Rehearsal: old rows in the stage's stream or batches, or a loss on them beside its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cpt.data import Reader, Rows
from cpt.data_spec import DataSpec
from cpt.hooks.base import LATER, Hook, Need, points
from cpt.hooks.card import Card
from cpt.hooks.context import Mixture, OldRows, StageContext
from cpt.old_rows import named
from cpt.past import Past
from cpt.replay.choice import loader
from cpt.replay.refusals import refuse
from cpt.replay.rehearsed import Rehearsed
from cpt.replay.schedule import Schedule, ScheduleSpec
from cpt.replay.settings import BY_MODEL, BufferSpec, Select
from cpt.replay.term import Term
from cpt.rows import RICHEST

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.params import View
    from cpt.tokens import Tokens

#: Of a data set in `mode: loss`, where no buffer says how many: what the stage can use, up to this.
MOST_ROWS = 10_000


@dataclass
class Replay(Hook):
    """Experience replay.

    `mode: stream`: share = old / (old + new) of the stage's final stream, in tokens unless `unit` says
    samples: with new data N and the shares of all entries summing to s, entry i adds share_i / (1 - s) * N,
    drawn without replacement per cycle. New data are never truncated. share 0 changes nothing.
    `mode: batch`: likewise, and every batch of B rows holds round(share * B) old ones.
    `mode: loss`: coefficient * (mean negative log-likelihood over the label tokens of `batch_size` old rows)
    is added to the loss of every optimizer step, in any kind of stage (the "ptx" term of RLHF). Pairs give
    their chosen answers; prompts alone have no answer to rehearse. The stage's own loss keeps its weight.

    Settings:
        of: the earlier stages whose exemplars are rehearsed; `previous`, `all`, or names.
        source: a data set instead; the base model has no exemplars.
        mode: where old rows act.
        share: of the final stream, in [0, 1); 0.1 unless said. Not in `mode: loss`.
        unit: what the share counts: tokens, and samples in batches, unless said.
        coefficient: of the loss; 0.1 unless said. Only in `mode: loss`, as is
        batch_size: old rows of an optimizer step, over all processes; 8 unless said.
        schedule: from which share or coefficient the stage comes to the one above, and how soon.
        buffer: how many rows are rehearsed, and how they are shared out over stages.
        select: which rows of each stage fill the buffer; or `collateral`, which draws them by what is
            forgotten (`mode: loss`).
        score: the column of `select: quality`.

    Source: Rolnick et al. 2019, arXiv:1811.11682; Ouyang et al. 2022, arXiv:2203.02155, eq. 2 (loss).
    """

    name: ClassVar[str] = "replay"
    card: ClassVar = Card(
        family="replay",
        formula="""stream, batch: share = old / (old + new) of the final stream, or of each batch
               loss  = mean over all label tokens of the mixed stream
loss:          loss  = stage's own + coefficient * mean over label tokens of old rows
schedule:      value(s) = end + (start - end) * exp(-s / tau), s: part of the stage done
collateral:    P(bin) ~ P(forgotten | bin) * (part of the old rows in bin)""",
        when="First of all, wherever earlier data or a general corpus can be read again. Begin "
        "with a share of 0.1 to 0.3 in sft, 0.05 to 0.5 in pretrain, more the further the new "
        "data are from the old. In dpo and grpo, whose rows are of another form, with mode: loss "
        "and a coefficient of 0.1 to 0.5.",
        cost="stream, batch: no extra pass; at equal new tokens the stage has 1 / (1 - share) times "
        "the steps. loss: a forward and a backward pass of batch_size more rows a step. select: one "
        "forward pass over the old rows, once.",
        state="0",
        fails="A small set repeated for many epochs is learnt by heart (the log tells the "
        "epochs). Old rows in another chat template teach that template. Rows that a probe asks "
        "make the probe worthless.",
        evidence="production-validated",
        sources=(
            "Rolnick et al. 2019, arXiv:1811.11682",
            "Ibrahim et al. 2024, arXiv:2403.08763 (continual pretraining)",
            "Ouyang et al. 2022, arXiv:2203.02155, eq. 2 (pretraining loss beside RL)",
            "Vitter 1985, doi:10.1145/3147.3165 (reservoir)",
            "Welling 2009, doi:10.1145/1553374.1553517 (herding)",
            "methods.md A06, A24, A36, A37, A48, B05, C04, D06, P012, P087",
        ),
    )

    of: str | list[str] | None = None
    source: DataSpec | None = None
    share: Annotated[float | None, Field(ge=0, lt=1)] = None
    unit: Literal["tokens", "samples"] | None = None
    mode: Literal["stream", "batch", "loss"] = field(default="stream", metadata=LATER)
    coefficient: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = field(
        default=None, metadata=LATER
    )
    batch_size: Annotated[int | None, Field(ge=1)] = field(default=None, metadata=LATER)
    schedule: ScheduleSpec | None = field(default=None, metadata=LATER)
    buffer: BufferSpec | None = field(default=None, metadata=LATER)
    select: Select = field(default="uniform", metadata=LATER)
    score: str | None = field(default=None, metadata=LATER)
    old: Rehearsed = field(init=False, repr=False)
    term: Term | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        refuse(self)
        if self.of is None and self.source is None:
            self.of = "previous"
        self.old = Rehearsed(
            self.label,
            self.of or "previous",
            self.source,
            self.buffer,
            self.select,
            self.score,
            self.mode == "loss",
        )
        if self.mode == "loss":
            self.coefficient = 0.1 if self.coefficient is None else self.coefficient
            self.batch_size = self.batch_size or 8
            return
        self.share = 0.1 if self.share is None else self.share
        self.unit = self.unit or ("samples" if self.mode == "batch" else "tokens")

    @property
    def value(self) -> Schedule:
        """The share, or the coefficient, over the stage."""
        end = (self.coefficient if self.mode == "loss" else self.share) or 0.0
        return Schedule.of(end, self.schedule)

    @property
    def is_off(self) -> bool:
        """Whether it changes nothing."""
        return self.value.highest == 0

    def idle(self) -> frozenset[str]:
        """A loss mixes no rows, rows are no loss, and only collateral damage looks at each step."""
        if self.mode != "loss":
            return frozenset({"measure", "penalty", "track"})
        unused = {"mix"} if self.select == "collateral" else {"mix", "track"}
        return frozenset(unused | {"penalty"} if self.is_off else unused)

    def needs_as_set(self) -> frozenset[Need]:
        """Rows in the stream or in batches ask nothing of the backend."""
        return frozenset({"logits"} if self.mode == "loss" else ())

    def facts_as_set(self) -> frozenset[str]:
        """As `needs_as_set`."""
        return frozenset({"second_forward"} if self.mode == "loss" else ())

    def learns_answers(self) -> bool:
        """In a prompt alone there is nothing to rehearse."""
        return self.mode == "loss"

    def rows_per_step(self) -> tuple[int, ...]:
        """Those of the loss; old rows in the stream are among the stage's own."""
        return (self.batch_size,) if self.batch_size and "penalty" in points(self) else ()

    def recalls(self) -> tuple[str, ...]:
        """The stages whose exemplars are read."""
        return named(self.of)

    def compares(self) -> bool:
        """Rows are looked at with the models of the stages that left them."""
        return self.select in BY_MODEL and not self.is_off

    @property
    def label(self) -> str:
        """What is rehearsed, for people."""
        return f"replay of {self.source.label if self.source else '-'.join(self.recalls())}"

    def rehearses(self) -> tuple[str, ...]:
        """The stages' exemplars, unless there is a data set instead."""
        return self.recalls() if not self.is_off else ()

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the exemplars.

        Raises:
            HookError: there is nothing to rehearse, a buffer that cannot be filled, or rows of a format that
                the stage cannot train on.
        """
        if not self.is_off:
            self.old.read(past, ctx)

    def mix(self, data: Mixture, ctx: StageContext) -> Mixture:
        """Add the rows with their share; the stage makes the stream for all sources at once."""
        if self.is_off:
            return data
        # A whole corpus, which only the process that mixes reads; nor do the others wait in a collective.
        alone = ctx if ctx.world.size == 1 else replace(ctx, cached=None)
        rows, notes = self.old.rows(loader(alone), ctx.formats, None, alone)
        data.notes += notes
        taken = sum(old.name == self.label for old in data.old)
        assert self.unit is not None
        data.old.append(
            OldRows(
                self.label if not taken else f"{self.label} {taken + 1}",
                rows,
                self.value.end,
                self.unit,
                self.old.max_bad,
                self.mode == "batch",
                None if self.value.is_constant else self.value,
            )
        )
        return data

    def measure(self, model: "PreTrainedModel", ctx: StageContext) -> None:
        """Read, choose and tokenise the rows of the loss.

        Raises:
            HookError: no row has a token to predict.
        """
        if self.is_off:
            return
        assert self.batch_size is not None
        load = loader(ctx, model)
        most = min(MOST_ROWS, max(ctx.num_steps, 1) * self.batch_size)
        rows, notes = self.old.rows(load, RICHEST, most, ctx)
        assert not isinstance(rows, Reader), "of a data set a part is read, not a stream"
        self.term = Term(
            rows.rows if isinstance(rows, Rows) else rows,
            self.batch_size,
            self.label,
            self.old.max_bad,
            self.old.parent if self.select == "collateral" else None,
            load,
            ctx,
        )
        for note in [*self.term.notes, *notes]:
            ctx.say(f"{self.label}: {note}")

    def penalty(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor | None":
        """This micro-batch's part of coefficient * mean negative log-likelihood of the step's old rows."""
        coefficient = self.value.at(ctx.step / max(ctx.num_steps, 1))
        if self.term is None or coefficient == 0:
            return None
        mean = self.term.part_of_mean(model, tokens, ctx)
        return None if mean is None else coefficient * mean

    def track(self, view: "View", ctx: StageContext) -> None:
        """Learn from the step which rows are forgotten."""
        if self.term is not None:
            self.term.end_step(ctx)

    def state_dict(self) -> "dict[str, Tensor]":
        """What `collateral` has learnt of its bins; other draws are a function of the step."""
        return {} if self.term is None else self.term.state_dict()

    def load_state_dict(self, state: "Mapping[str, Tensor]") -> None:
        """Take it back; a stage whose training is over draws no more."""
        if self.term is not None:
            self.term.load_state_dict(state)
