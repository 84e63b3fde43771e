"""Dark experience replay: the model answers old rows as the stage that learnt them did."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook, Need
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.logit_cache import Kept, LogitCache, content, logit_cache
from cpt.old_rows import encoded, named, rows_of_stages
from cpt.past import Past, PastStage
from cpt.rehearsal import Batch, Example, Rehearsal, hidden_states
from cpt.rows import Row

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.tokens import Tokens


@dataclass
class DER(Hook):
    """L_new + alpha * mean_t D(z_t, f(x)_t) + beta * mean_t -log p(y_t | x), x and y of a buffer of old rows.

    z are the outputs that the model had when it had just finished the stage of x: that stage's checkpoint is
    asked once, and its k most likely tokens of each label position are kept on disk with the rest as one
    outcome. D is KL(z || f) over these k + 1 outcomes, or the squared distance of the k centred logits. Each
    term draws `batch_size` rows of its own per optimizer step, without replacement per cycle; both are means
    over the label tokens of these rows at any accumulation and number of processes. beta 0 is DER, more is
    DER++.

    In a dpo stage nothing is stored: pairs that replay brings back are compared with the reference that the
    stage has now (`methods.md` A24).

    Settings:
        of: the earlier stages whose exemplars fill the buffer.
        alpha: weight of the old outputs; 0 asks no earlier model.
        beta: weight of the old labels.
        size: rows of the buffer, the same number of every stage.
        k: tokens kept of each position.
        loss: kl, or mse; begin with an alpha of 0.5 to 2, or 0.1 to 0.5.
        batch_size: rows of each term per optimizer step, over all processes.

    Source: Buzzega et al. 2020, arXiv:2004.07211, eq. 4 (DER) and 6 (DER++). Theirs stores the outputs while
    the old task is learnt, of a model that is not yet done; `methods.md` A10, D11, F15.
    """

    name: ClassVar[str] = "der"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    facts: ClassVar[frozenset[str]] = frozenset({"second_forward"})
    kinds: ClassVar = frozenset({"pretrain", "sft"})
    card: ClassVar = Card(
        family="output space",
        formula="""loss + alpha * mean_t D(z_t, f(x)_t) + beta * mean_t -log p(y_t | x)
x, y rows of a buffer; z their outputs when their stage had just ended
kl:  D = sum_o z_o log(z_o / f_o) over k tokens and the rest of them as one outcome
mse: D = |centred z - centred f|^2 over the k logits
each mean over the label tokens of a draw of its own; beta 0 is DER, more DER++""",
        when="When few old rows can be kept: each says more than its labels. alpha 0.5 to 2 with kl, "
        "0.1 to 0.5 with mse; beta 0.5 to 1.",
        cost="A forward and a backward of batch_size rows for each term whose weight is not 0, and "
        "one pass of each earlier stage over its part of the buffer, once.",
        state="0 (on disk 6 k + 4 bytes per label token of the buffer)",
        fails="A buffer of a few rows is learnt by heart. Over replay of the same rows the gain is "
        "small. Outputs of a stage that learnt little hold the model to little.",
        evidence="research",
        sources=("Buzzega et al. 2020, arXiv:2004.07211, eq. 4 and 6", "methods.md A10, D11, F15"),
    )

    of: str | list[str] = "previous"
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    size: Annotated[int, Field(ge=1)] = 500
    k: Annotated[int, Field(ge=1)] = 64
    loss: Literal["kl", "mse"] = "kl"
    batch_size: Annotated[int, Field(ge=1)] = 8
    rows: list[tuple[PastStage, list[Row]]] = field(default_factory=list, init=False, repr=False)
    outputs: Rehearsal | None = field(default=None, init=False, repr=False)
    labels: Rehearsal | None = field(default=None, init=False, repr=False)
    kept: dict[bytes, LogitCache] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta are 0, and nothing is left of it; remove the hook")
        if self.loss == "mse" and self.k == 1:
            raise ValueError("k: one logit, centred, is always 0; keep 2 or more")

    def recalls(self) -> tuple[str, ...]:
        """The stages whose exemplars are read, and whose models are asked."""
        return named(self.of)

    def rehearses(self) -> tuple[str, ...]:
        """The same."""
        return self.recalls()

    def compares(self) -> bool:
        """The earlier stages have this stage's vocabulary."""
        return self.alpha != 0

    def rows_per_step(self) -> tuple[int, ...]:
        """A draw for each term."""
        return tuple(self.batch_size for weight in (self.alpha, self.beta) if weight)

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the exemplars.

        Raises:
            HookError: no such stage, or no exemplars there.
        """
        self.rows = rows_of_stages(past, self.of, self.size, self.name, ctx)

    def measure(self, model: "PreTrainedModel", ctx: StageContext) -> None:
        """Fill the buffer: tokens, and the outputs of each stage's own model.

        Raises:
            HookError: rows without an answer; another vocabulary; more logits than there are tokens.
        """
        buffer: list[Example] = []
        for stage, rows in self.rows:
            _, examples = encoded(rows, f"{self.name} of {stage.name}", ctx)
            if not examples:
                raise HookError(
                    f"{self.name}: {stage.name} left rows without answers, which have no outputs to "
                    f"keep; name other stages, or list lwf, which takes prompts"
                )
            buffer += examples
            if self.alpha:
                kept = logit_cache(stage, examples, Kept(self.k, "labels"), model, self.name, ctx)
                # What two stages learnt is answered as the later one does.
                self.kept |= {content(example): kept for example in examples}
        self.rows = []
        # Draws of their own: the same rows twice would be half of them.
        self.outputs = Rehearsal(buffer, self.batch_size, f"{ctx.seed}/outputs", self.name)
        self.labels = Rehearsal(buffer, self.batch_size, ctx.seed, self.name)

    def penalty(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor | None":
        """This micro-batch's part of both terms."""
        from cpt.tokens import OutputHead, token_nll

        assert self.outputs is not None
        assert self.labels is not None
        assert tokens.hidden is not None
        head, device = OutputHead(model), tokens.hidden.device
        term = tokens.nothing()
        if self.alpha and (
            batch := self.outputs.batch(ctx.step, tokens.part, device, ctx.world.spreads)
        ):
            hidden = hidden_states(model, batch.forward)
            term = term + self.alpha * self._apart(hidden, head, batch)
        if self.beta and (
            batch := self.labels.batch(ctx.step, tokens.part, device, ctx.world.spreads)
        ):
            hidden = hidden_states(model, batch.forward)
            nll, _ = token_nll(hidden, head, batch.labels, batch.weight)
            term = term + self.beta * nll
        return term

    def _apart(self, hidden: "Tensor", head: Any, batch: Batch) -> "Tensor":
        """D, over the rows of a batch."""
        from cpt.topk import joined, topk_kl, topk_mse

        parts = [self.kept[content(example)].of(example) for example in batch.examples]
        stored = joined(parts).to(hidden.device)
        if batch.is_idle:
            stored = stored.part(slice(0, 0))
        if self.loss == "mse":
            return topk_mse(hidden, head, stored, batch.weight)
        return topk_kl(hidden, head, stored, batch.weight, "forward")
