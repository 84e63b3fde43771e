"""The gradient norm of each term that hooks add to the loss, now and then."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Steps from one measurement to the next. The first step is measured, so that its memory shows at once.
EVERY = 100


class Norms:
    """|| d term / d weights || of every term, over all micro-batches and ranks of one optimizer step.

    Costs one more backward pass a term, and one more gradient in memory, in the steps that are measured.
    """

    def __init__(self, model: "nn.Module") -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.gradients: dict[str, list[Tensor]] = {}

    def add(self, key: str, term: "Tensor") -> None:
        """Add what one micro-batch's part of a term gives."""
        import torch

        made = torch.autograd.grad(term, self.parameters, retain_graph=True, materialize_grads=True)
        if key not in self.gradients:
            self.gradients[key] = list(made)
            return
        for sum_, part in zip(self.gradients[key], made, strict=True):
            sum_ += part

    def take(self, world: Any) -> "dict[str, Tensor]":
        """Norms by key, the same on every rank."""
        taken = {}
        for key in sorted(self.gradients):
            squares = [world.sum_(part).float().square().sum() for part in self.gradients[key]]
            taken[key] = sum(squares[1:], squares[0]).sqrt()
        self.gradients = {}
        return taken
