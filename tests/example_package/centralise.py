from dataclasses import dataclass
from typing import ClassVar

from cpt.hooks.base import Hook, Need, StageContext
from cpt.params import View


@dataclass
class Centralise(Hook):
    """Takes `share` of the mean out of every row of a matrix's gradient (arXiv:2004.01461, eq. 1)."""

    name: ClassVar[str] = "centralise"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    share: float = 1.0

    def project(self, view: View, ctx: StageContext) -> None:
        for _, _, gradient in view.shards():
            if gradient is not None and gradient.dim() == 2:
                gradient -= self.share * gradient.mean(dim=1, keepdim=True)
