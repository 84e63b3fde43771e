"""Learning without forgetting: distillation from a frozen earlier stage, on new, old or general inputs."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cpt.data_spec import DataSpec
from cpt.errors import PlanError
from cpt.hooks.base import Hook, Need
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.logit_cache import Kept, LogitCache, logit_cache
from cpt.old_rows import encoded, named, rows_of_source, rows_of_stages
from cpt.past import Past
from cpt.positions import Positions, Sure, weight_at
from cpt.rehearsal import Rehearsal, hidden_states
from cpt.rows import Row
from cpt.tokens import Direction

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.tokens import Tokens

#: Settings that say nothing with some inputs.
UNUSED = {
    "new": ("source", "rows_of", "batch_size", "size", "cache"),
    "general": ("positions",),
    "both": ("cache",),
}


@dataclass
class LwF(Hook):
    """beta * T^2 * mean_t KL(softmax(z0_t / T) || softmax(z_t / T)), z0 of an earlier stage, z of this one.

    `new` inputs: the stage's own batch, at its label tokens, its prompts or both; the mean runs over those
    positions of the optimizer step. `general` inputs: `batch_size` rows of a pool per optimizer step, drawn
    without replacement per cycle, at every position whose prediction means something; answers in them play
    no part, so prompts do, and their last position, which begins the answer, counts. The mean runs over the
    step's positions at any accumulation and number of processes. `both`: the sum of the two means.

    The parametrisation alpha CE + (1 - alpha) KD is this one with beta = (1 - alpha) / alpha and the learning
    rate times alpha.

    Settings:
        of: the earlier stage that is asked.
        beta: weight; 0 changes nothing and loads nothing.
        temperature: T; its square keeps the gradient's size.
        direction: forward as above, reverse or js, as the kl hook's.
        inputs: new, general or both; dpo and grpo take general ones only.
        positions: of new inputs: labels, prompt (what is before and between them), or all.
        source: the pool of general inputs: a data set.
        rows_of: or the exemplars of earlier stages; the previous one's, unless said.
        size: rows of the pool at most; of a streamed source the first ones.
        batch_size: general rows of an optimizer step, over all processes.
        max_entropy: leave out positions where the earlier stage's entropy is above this, in nats at T = 1;
            the mean still divides by all.
        min_probability: leave out those where its largest probability is below this.
        cache: keep its most likely so many tokens of each position of the pool on disk, the rest as one
            outcome, and have no second model in memory. At most the exact term, and close to it from 64 on.

    Source: Li and Hoiem 2016, arXiv:1606.09282, eq. 2 and 3; Hinton et al. 2015, arXiv:1503.02531, section 2
    (T^2); `methods.md` A15, A47, D11.
    """

    name: ClassVar[str] = "lwf"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    facts: ClassVar[frozenset[str]] = frozenset({"second_forward"})
    kinds: ClassVar = frozenset({"pretrain", "sft", "dpo", "grpo"})
    card: ClassVar = Card(
        family="output space",
        formula="""loss + beta * T^2 * mean_t KL(p0_t || p_t)
p0_t = softmax(z0_t / T) of the earlier stage, p_t = softmax(z_t / T) of this one
KL over the vocabulary; mean over the positions t of one optimizer step
reverse: KL(p_t || p0_t); js: the mean of both to (p_t + p0_t) / 2""",
        when="When old answers cannot be trained on again but old prompts or any general text can "
        "be read: inputs general, beta 0.5 to 1, T 1 to 2. With inputs new and positions labels it is "
        "the classical method, which is weak where new inputs do not exercise old behaviour.",
        cost="general: a forward and a backward of batch_size rows and a forward of the earlier "
        "stage, which cache leaves out after one pass over the pool. new: one forward of the earlier "
        "stage, about a third of a step.",
        state="2 (one frozen copy in bf16; 4 in fp32; 0 with cache, or with a lora hook where the "
        "earlier stage is the parent; cache: 6 k + 4 bytes per token of the pool, on disk)",
        fails="New inputs at label positions hold the model against the new labels: old skills stay "
        "only as new ones are not learnt. General text that is far from the old tasks does not hold "
        "those. A general pool that is too small is learnt by heart.",
        evidence="research",
        sources=(
            "Li and Hoiem 2016, arXiv:1606.09282, eq. 2 and 3",
            "Hinton et al. 2015, arXiv:1503.02531, section 2",
            "methods.md A15, A47, D10, D11",
        ),
    )

    of: str = "previous"
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    direction: Direction = "forward"
    inputs: Literal["new", "general", "both"] = "general"
    positions: Positions = "labels"
    source: DataSpec | None = None
    rows_of: str | list[str] | None = None
    size: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 8
    max_entropy: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    min_probability: Annotated[float, Field(gt=0, lt=1)] | None = None
    cache: Annotated[int, Field(ge=1)] | None = None
    earlier: Any = field(default=None, init=False, repr=False)
    rows: list[Row] = field(default_factory=list, init=False, repr=False)
    rehearsal: Rehearsal | None = field(default=None, init=False, repr=False)
    cached: LogitCache | None = field(default=None, init=False, repr=False)
    loaded: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.of == "all":
            raise ValueError("`of` names one earlier stage, and `all` names several")
        for unused in UNUSED[self.inputs]:
            if getattr(self, unused) != getattr(type(self), unused):
                raise ValueError(f"{unused}: has no meaning with inputs: {self.inputs}; remove it")
        if self.source is not None and self.rows_of is not None:
            raise ValueError("name either `rows_of` (earlier stages) or `source` (a data set)")
        if self.inputs != "new" and self.source is None and self.rows_of is None:
            self.rows_of = "previous"

    def idle(self) -> frozenset[str]:
        """With beta 0 it is not there; its own batch needs no preparation."""
        if not self.beta:
            return frozenset({"measure", "penalty"})
        return frozenset({"measure"} if self.inputs == "new" else ())

    def recalls(self) -> tuple[str, ...]:
        """The stage that is asked, and those whose exemplars it is asked about."""
        return tuple(dict.fromkeys([self.of, *self.rehearses()]))

    def rehearses(self) -> tuple[str, ...]:
        """The stages whose exemplars are the pool."""
        return named(self.rows_of) if self.beta else ()

    def compares(self) -> bool:
        """The earlier stage has this stage's vocabulary."""
        return self.beta != 0

    def compared(self) -> tuple[str, ...]:
        """The stage that is asked."""
        return (self.of,) if self.compares() else ()

    def rows_per_step(self) -> tuple[int, ...]:
        """One draw from the pool."""
        return (self.batch_size,) if self.beta and self.inputs != "new" else ()

    def models_held(self) -> tuple[str, ...]:
        """The stage that is asked, unless its answers are on disk."""
        return self.compared() if self.cache is None else ()

    def check(self, kind: str, where: str) -> None:
        """Refuse inputs that a stage kind does not have.

        Raises:
            PlanError: preferences or completions of its own as inputs; prompts of documents.
        """
        if kind in ("dpo", "grpo") and self.inputs != "general":
            raise PlanError(
                f"{where}: inputs: {self.inputs}: a {kind} stage has the kl hook for its own batch; "
                f"write inputs: general, or list kl"
            )
        if kind == "pretrain" and self.positions == "prompt":
            raise PlanError(
                f"{where}: positions: prompt: documents have no prompt; write positions: labels"
            )

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the pool; the model is loaded when it is needed.

        Raises:
            HookError: no such stage, or no exemplars there.
            DataError: the source has no usable rows.
        """
        if self.beta == 0:
            return
        (self.earlier,) = past.select(self.of)
        if self.source is not None:
            self.rows = rows_of_source(self.source, self.size, self.name, ctx)
        elif self.rows_of is not None:
            found = rows_of_stages(past, self.rows_of, self.size, self.name, ctx)
            self.rows = [row for _, rows in found for row in rows]

    def measure(self, model: "PreTrainedModel", ctx: StageContext) -> None:
        """Make the pool's tokens, and what is kept of the earlier stage's outputs.

        Raises:
            HookError: the pool has no tokens; more outcomes are asked for than there are tokens.
        """
        if self.beta == 0 or self.inputs == "new":
            return
        _, examples = encoded(self.rows, self.name, ctx, lambda example: example.num_counted("all"))
        self.rows = []
        self.rehearsal = Rehearsal(examples, self.batch_size, ctx.seed, self.name, "all")
        if self.cache is not None:
            kept = Kept(self.cache, "all", self.temperature, self._sure())
            pool = self.rehearsal.examples
            self.cached = logit_cache(self.earlier, pool, kept, model, self.name, ctx)

    def penalty(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor | None":
        """This micro-batch's part of the term."""
        if self.beta == 0:
            return None
        term = tokens.nothing()
        if self.inputs != "general":
            term = term + self._new(model, tokens, ctx)
        if self.inputs != "new":
            term = term + self._general(model, tokens, ctx)
        return self.beta * term

    def _new(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor":
        assert tokens.hidden is not None
        weight = weight_at(tokens, self.positions)
        return self._distilled(model, tokens.forward, tokens.hidden, weight, ctx)

    def _general(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor":
        from cpt.tokens import OutputHead
        from cpt.topk import topk_kl

        assert self.rehearsal is not None
        assert tokens.hidden is not None
        batch = self.rehearsal.batch(ctx.step, tokens.part, tokens.hidden.device, ctx.world.spreads)
        if batch is None:
            return tokens.nothing()
        hidden = hidden_states(model, batch.forward)
        if self.cached is None:
            return self._distilled(model, batch.forward, hidden, batch.weight, ctx)
        stored = self.cached.outcomes(batch.examples, hidden.device)
        if batch.is_idle:
            stored = stored.part(slice(0, 0))
        return topk_kl(
            hidden, OutputHead(model), stored, batch.weight, self.direction, self.temperature
        )

    def _distilled(
        self,
        model: "nn.Module",
        forward: Any,
        hidden: "Tensor",
        weight: "Tensor",
        ctx: StageContext,
    ) -> "Tensor":
        """From the earlier stage's model itself."""
        import torch

        from cpt.hooks.backbone import check_apart
        from cpt.tokens import OutputHead, token_kl

        if self.loaded is None:
            assert ctx.reference is not None
            self.loaded = ctx.reference(self.earlier)
            check_apart(self.loaded, model, self.name)
        with torch.no_grad():
            asked = self.loaded.hidden(forward)
        return token_kl(
            hidden,
            OutputHead(model),
            asked,
            self.loaded.head,
            weight,
            self.direction,
            temperature=self.temperature,
            keep=self._sure(),
        )

    def _sure(self) -> Sure | None:
        """Where the earlier stage is followed; None: everywhere."""
        if self.max_entropy is None and self.min_probability is None:
            return None
        return Sure(self.max_entropy, self.min_probability)
