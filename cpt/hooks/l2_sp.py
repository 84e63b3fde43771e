"""Every weight is held to where earlier stages left it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cpt.anchors import Anchors
from cpt.hooks.anchored import Anchored
from cpt.hooks.at_anchor import at_anchor, fitted, known_rows, protected
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class L2SP(Anchored):
    """strength / 2 * sum_s ||w - a_s||^2 over the stages s: EWC with every importance 1.

    Settings:
        of: the earlier stages whose weights are anchors.
        strength: of the pull; 0 changes nothing.
        style: gradient or proximal, see `cpt.hooks.anchored`.

    Source: Li et al. 2018, arXiv:1802.01483, eq. 2, without its second term, for new layers; `methods.md`
    A03.
    """

    name: ClassVar[str] = "l2_sp"
    card: ClassVar = Card(
        family="parameter space",
        formula="""R = strength / 2 * sum_s sum_i (w_i - a_si)^2    a_s the weights after stage s""",
        when="As the measure of every other penalty on weights: one that does not beat it is not worth its "
        "Fisher. Needs nothing but a checkpoint.",
        cost="One pass over the trained weights per optimizer step.",
        state="4 (the anchor, or the mean of several)",
        fails="It holds what does not matter as firmly as what does: strong enough to keep old skills, it "
        "keeps new ones out.",
        evidence="academic",
        sources=("Li et al. 2018, arXiv:1802.01483, eq. 2", "methods.md A03"),
    )

    def bytes_per_weight(self) -> float:
        """The centre."""
        return 4.0 if self.scale else 0.0

    def collect(self, model: "PreTrainedModel", ctx: StageContext) -> Anchors:
        """The anchors; rows of embeddings that are new here are free."""
        import torch

        anchors, own = Anchors(), protected(model)
        for stage in self.stages:
            with at_anchor(stage, model, ctx) as (_, weights):
                ones = {name: torch.ones_like(value.float()) for name, value in weights.items()}
                known = known_rows(ones, own, stage, model, ctx)
                anchors.add(fitted(weights, own, own), fitted(known, own, None))
        if all((held == anchors.count).all() for held in (anchors.importance or {}).values()):
            anchors.importance = None
        return anchors
