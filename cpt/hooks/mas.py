"""Memory aware synapses: weights are held as firmly as the model's output depends on them."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from cpt import importance
from cpt.anchors import Anchors, normalised
from cpt.data_spec import DataSpec
from cpt.hooks.anchored import Anchored
from cpt.hooks.at_anchor import at_anchor, fitted, known_rows, protected
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.old_rows import OldExamples
from cpt.past import Past

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class MAS(Anchored):
    """strength * sum_s sum_i O_si (w_i - a_si)^2 over the stages s.

    O_si is the mean of |d ||logits||^2 / d w_i| over rows of stage s. Logits are centred, and the norm is
    averaged over all positions that predict a token; no labels are needed.

    Settings:
        of: the earlier stages that are protected. The base model left no rows, so it needs a `source`.
        strength: of the pull, without a half; 0 changes nothing and measures nothing.
        style: gradient or proximal, see `cpt.hooks.anchored`.
        source: a data set to measure on, instead of each stage's exemplars.
        samples: rows that the importance of a stage is measured on.
        centred: take the mean off the logits first, which changes nothing that the model does.
        normalise: divide the importance by its mean over the weights.

    Source: Aljundi et al. 2018, arXiv:1711.09601, eq. 2 to 4; `methods.md` A05.
    """

    name: ClassVar[str] = "mas"
    factor: ClassVar[float] = 2.0
    version: ClassVar[int] = importance.VERSION
    card: ClassVar = Card(
        family="parameter space",
        formula="""R = strength * sum_s sum_i O_si (w_i - a_si)^2
O_si = mean over rows of | d f / d w_i | at a_s,  f = mean over positions of ||logits - mean logit||^2""",
        when="Where only unlabelled text or prompts of the old tasks exist. Otherwise ewc, whose "
        "importance is about what the model says and not about how large its logits are.",
        cost="One pass over the trained weights per optimizer step; once per protected stage a forward and a "
        "backward for each of `samples` rows.",
        state="8 (importance and centre; as much for any number of anchors)",
        fails="With a large vocabulary the tail of unlikely tokens makes most of the norm; retention is "
        "bought with plasticity (protocol TA).",
        evidence="academic",
        sources=("Aljundi et al. 2018, arXiv:1711.09601, eq. 2 to 4", "methods.md A05"),
    )

    source: DataSpec | None = None
    samples: Annotated[int, Field(ge=1)] = 500
    centred: bool = True
    normalise: bool = True
    old: OldExamples = field(default_factory=OldExamples, init=False, repr=False)

    def rehearses(self) -> tuple[str, ...]:
        """The rows that importance is measured on."""
        return self.recalls() if self.scale and self.source is None else ()

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Find the stages and their rows.

        Raises:
            HookError: there is no such stage, or it left no rows.
        """
        super().recall(past, ctx)
        if self.scale:
            self.old.find(self.name, self.stages, self.source, self.samples, ctx, False)

    def collect(self, model: "PreTrainedModel", ctx: StageContext) -> Anchors:
        """One anchor per stage; importance is made once for all stages that ask for it."""
        anchors, own = Anchors(), protected(model)
        assert ctx.cached is not None
        for stage in self.stages:
            examples = self.old.of(stage, ctx)
            told = importance.progress(ctx, f"{self.name}: {stage.name}", len(examples))
            with at_anchor(stage, model, ctx) as (bare, weights):
                found = ctx.cached(
                    importance.key(f"mas {self.centred}", stage, weights, examples, ctx.seed),
                    partial(
                        importance.memory_aware_synapses,
                        *(bare, list(own), examples, ctx.world, ctx.seed, told, self.centred),
                    ),
                )
                found = known_rows(found, own, stage, model, ctx)
                found = normalised(found) if self.normalise else found
                anchors.add(fitted(weights, own, own), fitted(found, own, None))
        return anchors
