"""Elastic weight consolidation: weights are held as firmly as the Fisher information says."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cpt import importance
from cpt.anchors import Anchors, normalised
from cpt.data_spec import DataSpec
from cpt.hooks.anchored import Anchored
from cpt.hooks.at_anchor import at_anchor, fitted, known_rows, protected
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext, Tensors
from cpt.old_rows import OldExamples
from cpt.past import Past, PastStage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class EWC(Anchored):
    """strength / 2 * sum_s sum_i F_si (w_i - a_si)^2, one Fisher and one anchor per stage, added exactly.

    F_s is the diagonal Fisher of the model that stage s left, over rows that it trained on: squares of
    per-example gradients of the summed log-likelihood, averaged over examples. It is a function of the
    stage's checkpoint and exemplars and is made once for all stages that ask for it.

    Settings:
        of: the earlier stages that are protected. The base model left no rows, so it needs a `source`.
        strength: of the pull; 0 changes nothing and measures nothing.
        style: gradient or proximal, see `cpt.hooks.anchored`.
        source: a data set to measure the Fisher on, instead of each stage's exemplars; general text, say.
        samples: rows that the Fisher of a stage is measured on.
        labels: drawn from the model (sample: the true Fisher), the data's own (data: the empirical one), or
            the likeliest (argmax: nearly 0 where the model is sure; needs allow_biased).
        unit: example: of whole answers; token: of single tokens, so that long rows do not dominate.
        normalise: divide F by its mean over the weights, so that a strength means the same for any model,
            loss and length.
        allow_biased: take `labels: argmax` all the same.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3; `methods.md` A03, A30.
    """

    name: ClassVar[str] = "ewc"
    card: ClassVar = Card(
        family="parameter space",
        formula="""R = strength / 2 * sum_s sum_i F_si (w_i - a_si)^2
F_si = mean over rows x of E_y (d log p(y | x) / d w_i)^2 at a_s    (divided by its mean over i)""",
        when="Full fine-tuning whose general ability matters and whose old data cannot be replayed: measure "
        "the Fisher on general text (source). Begin with strength 0.1 and compare with l2_sp.",
        cost="One pass over the trained weights per optimizer step; once per protected stage a forward and a "
        "backward for each of `samples` rows.",
        state="8 (importance and centre; as much for any number of anchors)",
        fails="Too strong, it keeps new skills out; on tasks that need the same weights it cannot give both "
        "(protocol TA). A Fisher of few rows, or of rows the model is sure of, protects noise.",
        evidence="academic",
        sources=(
            "Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3",
            "Kunstner et al. 2019, arXiv:1905.12558 (labels)",
            "methods.md A03, A30",
        ),
    )
    version: ClassVar[int] = importance.VERSION

    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    source: DataSpec | None = None
    samples: Annotated[int, Field(ge=1)] = 500
    labels: Literal["sample", "data", "argmax"] = "sample"
    unit: Literal["example", "token"] = "example"
    normalise: bool = True
    allow_biased: bool = False
    old: OldExamples = field(default_factory=OldExamples, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.labels == "argmax" and not self.allow_biased:
            raise ValueError(
                "labels: argmax makes the Fisher vanish where the model is sure; write sample or data, or "
                "allow_biased: true to have it all the same"
            )

    def rehearses(self) -> tuple[str, ...]:
        """The rows that the Fisher is measured on."""
        return self.recalls() if self.scale and self.source is None else ()

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Find the stages and their rows.

        Raises:
            HookError: there is no such stage, or it left no rows with answers.
        """
        super().recall(past, ctx)
        if self.scale:
            self.old.find(self.name, self.stages, self.source, self.samples, ctx)

    def fisher(self, stage: PastStage, model: "PreTrainedModel", ctx: StageContext) -> Tensors:
        """F of one stage in this stage's shapes, and its weights under `a/`; made once and kept."""
        own = protected(model)
        examples = self.old.of(stage, ctx)
        told = importance.progress(ctx, f"{self.name}: Fisher of {stage.name}", len(examples))
        with at_anchor(stage, model, ctx) as (bare, weights):
            assert ctx.cached is not None
            found = ctx.cached(
                importance.key(
                    f"fisher {self.labels} {self.unit}", stage, weights, examples, ctx.seed
                ),
                lambda: importance.diagonal_fisher(
                    bare, list(own), examples, ctx.world, ctx.seed, self.labels, self.unit, told
                ),
            )
            found = known_rows(found, own, stage, model, ctx)
            found = normalised(found) if self.normalise else found
            # Copies: beyond this block an adapter has its own numbers again.
            anchor = {f"a/{n}": v.float().clone() for n, v in fitted(weights, own, own).items()}
            return {**fitted(found, own, None), **anchor}

    def collect(self, model: "PreTrainedModel", ctx: StageContext) -> Anchors:
        """One anchor per stage."""
        anchors = Anchors()
        for stage in self.stages:
            fisher, weights = _parted(self.fisher(stage, model, ctx))
            anchors.add(weights, fisher)
        return anchors


@dataclass
class OnlineEWC(EWC):
    """strength / 2 * sum_i F_i (w_i - a_i)^2 with the newest anchor alone and one running Fisher.

    Over the stages in order: `sum` F <- decay F + F_s, `ema` F <- decay F + (1 - decay) F_s, `mean` the mean
    of all F_s. The same decay means different protection: with F of 4, then 2 and decay 0.9 they give 5.6,
    3.8 and 3.0. Older stages are pulled towards weights that were never theirs; `ewc` has no such error and
    needs no more memory.

    Settings:
        of: the earlier stages that are protected, `all` unless said.
        decay: of what was there.
        rule: sum, ema or mean.
        strength, style, source, samples, labels, unit, normalise, allow_biased: as in `ewc`.

    Source: Schwarz et al. 2018, arXiv:1805.06370, section 3.2 (sum); `methods.md` A03, A30, pitfalls F8, F9.
    """

    name: ClassVar[str] = "online_ewc"
    card: ClassVar = Card(
        family="parameter space",
        formula="""R = strength / 2 * sum_i F_i (w_i - a_i)^2    a the newest anchor
F <- decay * F + F_s over the stages s in order    (sum; or ema, mean)""",
        when="To reproduce Progress and Compress, or where older stages are to fade. Otherwise ewc, which "
        "holds every stage at its own weights in the same memory.",
        cost="As ewc.",
        state="8 (importance and anchor)",
        fails="As ewc; and the penalty's centre drifts: old stages' Fisher holds the newest weights.",
        evidence="academic",
        sources=("Schwarz et al. 2018, arXiv:1805.06370, section 3.2", "methods.md A03, A30"),
    )

    of: str | list[str] = "all"
    decay: Annotated[float, Field(ge=0, le=1)] = 0.95
    rule: Literal["sum", "ema", "mean"] = "sum"

    def collect(self, model: "PreTrainedModel", ctx: StageContext) -> Anchors:
        """The newest anchor, with the running Fisher."""
        running: dict[str, Any] = {}
        weights: Tensors = {}
        for number, stage in enumerate(self.stages):
            fisher, weights = _parted(self.fisher(stage, model, ctx))
            running = {
                name: online(running.get(name), value, number, self.rule, self.decay)
                for name, value in fisher.items()
            }
        anchors = Anchors()
        anchors.add(weights, running)
        return anchors


def online(running: Any, new: Any, number: int, rule: str, decay: float) -> Any:
    """A running Fisher with one more; `number` of them before it. The first one is taken whole."""
    if running is None:
        return new
    if rule == "mean":
        return running + (new - running) / (number + 1)
    return decay * running + (new if rule == "sum" else (1 - decay) * new)


def _parted(both: Tensors) -> tuple[Tensors, Tensors]:
    anchor = {name[2:]: value for name, value in both.items() if name.startswith("a/")}
    return {name: value for name, value in both.items() if not name.startswith("a/")}, anchor
