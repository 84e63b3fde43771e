"""Quadratic penalties towards weights of earlier stages: any number of anchors in the memory of one.

    R(w) = 1/2 sum_s sum_i O_si (w_i - a_si)^2
         = 1/2 sum_i O_i (w_i - c_i)^2 + rest,   O = sum_s O_s,   c = sum_s O_s a_s / O

so two numbers per weight tell the gradient O (w - c) of all anchors exactly, without the cancellation of
O w - sum_s O_s a_s in fp32. Legend: O importance, a anchor, c centre; all fp32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cpt.errors import HookError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Anchors:
    """Importance and centre of every protected weight, by bare name.

    Attributes:
        importance: O; None where every anchor has importance 1, which then is `count` times 1.
        centre: c.
        rest: what of R does not depend on the weights.
        count: anchors so far.
    """

    importance: "dict[str, Tensor] | None" = None
    centre: "dict[str, Tensor]" = field(default_factory=dict)
    rest: float = 0.0
    count: int = 0

    def add(
        self, weights: "Mapping[str, Tensor]", importance: "Mapping[str, Tensor] | None"
    ) -> None:
        """Add one anchor.

        c' = c + O_s / (O + O_s) (a_s - c), and the rest grows by 1/2 sum O O_s / (O + O_s) (a_s - c)^2; a
        weight that nobody holds important has the newest anchor as its centre, and no force.

        Raises:
            HookError: it names other weights than those before.
        """
        import torch

        if self.count and weights.keys() != self.centre.keys():
            odd = sorted(weights.keys() ^ self.centre.keys())[0]
            raise HookError(f"anchors differ in {odd!r}; protect stages whose models are alike")
        if self.count and (importance is None) != (self.importance is None):
            raise HookError("anchors with and without an importance do not add up")
        for name, anchor in weights.items():
            new = anchor.detach().float()
            if self.count == 0:
                self.centre[name] = new.clone()
                continue
            old = self.centre[name]
            own = 1.0 if importance is None else importance[name]
            before = float(self.count) if self.importance is None else self.importance[name]
            total = torch.as_tensor(before + own, device=old.device)
            part = torch.where(total > 0, own / total.clamp(min=1e-38), torch.ones_like(total))
            gap = new - old
            self.rest += 0.5 * float((before * part * gap * gap).double().sum())
            self.centre[name] = old + part * gap
        if importance is not None:
            held = self.importance or {}
            self.importance = {
                name: held[name] + importance[name] if name in held else importance[name].clone()
                for name in weights
            }
        self.count += 1

    def to(self, device: object) -> "Anchors":
        """Move everything to where the weights are."""
        moved = {name: value.to(device) for name, value in self.centre.items()}  # type: ignore[call-overload]
        held = self.importance and {
            name: value.to(device)  # type: ignore[call-overload]
            for name, value in self.importance.items()
        }
        return Anchors(held, moved, self.rest, self.count)

    def pulled(self, name: str, weights: "Tensor") -> "tuple[Tensor, Tensor]":
        """O (w - c) and sum_i O_i (w_i - c_i)^2 of one tensor."""
        gap = weights.float() - self.centre[name]
        force = gap * self.held(name)
        return force, (force * gap).sum()

    def held(self, name: str) -> "Tensor | float":
        """O of one tensor."""
        return float(self.count) if self.importance is None else self.importance[name]


def normalised(importance: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Importance divided by its mean over all protected weights, so that a strength means the same anywhere.

    Raises:
        HookError: it is 0 everywhere, or not finite: it would protect nothing, or everything.
    """
    total = sum(float(value.double().sum()) for value in importance.values())
    mean = total / max(sum(value.numel() for value in importance.values()), 1)
    if not 0 < mean < float("inf"):
        raise HookError(
            f"the mean importance of the protected weights is {mean:g}; the rows it was measured on give no "
            f"gradient"
        )
    return {name: value / mean for name, value in importance.items()}
