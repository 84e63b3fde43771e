"""What L2-SP, EWC, SI and MAS share: a quadratic penalty towards the weights of earlier stages."""

from abc import abstractmethod
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cpt.anchors import Anchors
from cpt.errors import HookError
from cpt.hooks.at_anchor import protected
from cpt.hooks.base import Hook, Need, Told
from cpt.hooks.context import StageContext
from cpt.old_rows import named
from cpt.past import Past, PastStage

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.params import View


@dataclass
class Anchored(Hook):
    """R(w) = scale / 2 * sum_s sum_i O_si (w_i - a_si)^2 over the anchors s, in closed form.

    `gradient` adds scale * O (w - c) to the reduced gradient, once per optimizer step, before clipping and
    without a graph. `proximal` leaves the gradient alone and solves for the penalty after the step, as AdamW
    decays weights: w <- (w + lr scale O c) / (1 + lr scale O), which no strength can make unstable and which
    Adam does not rescale. `gradient` is the default because it keeps far more at the same strength, with the
    new task learnt as well (`make bench-methods`, protocol TB, 3 seeds: ewc 1 lets the general loss rise by
    0.03 nats, proximal by 0.49, naive training by 1.12): Adam takes a step of its own size towards the
    anchors, where a proximal step is lr times smaller than the pull.

    Settings:
        of: the earlier stages whose weights are anchors; `previous`, `all`, or names.
        strength: 0 changes nothing and measures nothing.
        style: gradient or proximal.

    Source: `methods.md` 3.3 and A03; the proximal step is that of Parikh and Boyd 2014, section 6.1.1.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"parameters", "gradients"})
    #: strength times this is the scale.
    factor: ClassVar[float] = 1.0

    of: str | list[str] = "previous"
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    style: Literal["gradient", "proximal"] = "gradient"
    stages: tuple[PastStage, ...] = field(default=(), init=False, repr=False)
    anchors: Anchors | None = field(default=None, init=False, repr=False)

    @property
    def scale(self) -> float:
        """What multiplies half of the sum."""
        return self.factor * self.strength

    def bytes_per_weight(self) -> float:
        """Importance and centre."""
        return 8.0 if self.scale else 0.0

    def idle(self) -> frozenset[str]:
        """At strength 0 it is not there; only a proximal step looks at the weights after a step."""
        if not self.scale:
            return frozenset({"measure", "pull", "track"})
        return frozenset({"track"} if self.style == "gradient" else ())

    def facts_as_set(self) -> frozenset[str]:
        """A proximal step moves weights behind the optimizer's."""
        moves = self.scale and self.style == "proximal"
        return frozenset({"moves_weights"} if moves else ())

    def holds_weights(self) -> bool:
        """Unless it is off."""
        return bool(self.scale)

    def recalls(self) -> tuple[str, ...]:
        """The stages whose weights are anchors."""
        return named(self.of)

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Remember where the anchors are.

        Raises:
            HookError: there is no such stage.
        """
        self.stages = past.select(self.of)

    @abstractmethod
    def collect(self, model: "PreTrainedModel", ctx: StageContext) -> Anchors:
        """Anchors and their importance, from the stages."""
        ...

    def measure(self, model: "PreTrainedModel", ctx: StageContext) -> None:
        """Collect the anchors while the weights are still those that the stage starts from."""
        if self.scale:
            if self.style == "proximal":
                refuse_16_bits(self.name, model)
            self.anchors = self.collect(model, ctx).to(next(model.parameters()).device)

    def pull(self, view: "View", ctx: StageContext) -> Told | None:
        """Add scale * O (w - c) to the gradient; `proximal` only tells the penalty."""
        if not self.scale:
            return None
        import torch

        anchors = self._anchors()
        value = square = torch.zeros(())
        for name, weights, gradient in view.shards(with_gradient=self.style == "gradient"):
            force, energy = anchors.pulled(name, weights)
            value, square = value.to(energy) + energy, square.to(energy) + force.square().sum()
            if self.style == "gradient":
                assert gradient is not None
                gradient.add_(force.to(gradient.dtype), alpha=self.scale)
        penalty = self.scale * (view.sum_(value) / 2 + anchors.rest)
        return {"": penalty, "grad_norm": self.scale * view.sum_(square).sqrt()}

    def track(self, view: "View", ctx: StageContext) -> None:
        """The proximal step, w <- w - lr scale O (w - c) / (1 + lr scale O)."""
        if self.scale and self.style == "proximal":
            if isnan(ctx.learning_rate):
                raise HookError(
                    f"{self.name}: style: proximal steps with the optimizer's learning rate, and here groups "
                    f"of weights have several; write style: gradient"
                )
            anchors, rate = self._anchors(), ctx.learning_rate * self.scale
            for name, weights, _ in view.shards():
                force, _ = anchors.pulled(name, weights)
                moved = weights.float() - rate * force / (1 + rate * anchors.held(name))
                weights.copy_(moved.to(weights.dtype))

    def per_weight(self) -> "tuple[dict[str, Tensor], ...]":
        """Centres and importance."""
        if self.anchors is None:
            return ()
        held = self.anchors.importance
        return (self.anchors.centre, *([] if held is None else [held]))

    def _anchors(self) -> Anchors:
        if self.anchors is None:
            raise HookError(f"{self.name}: nothing was measured before the first step")
        return self.anchors


def refuse_16_bits(name: str, model: "nn.Module") -> None:
    """Refuse weights whose steps would be rounded away: a proximal step is lr * strength of a weight.

    Raises:
        HookError: says what to write instead.
    """
    for weight, value in protected(model).items():
        if value.dtype.itemsize < 4:
            raise HookError(
                f"{name}: style: proximal moves weights by less than {weight} can tell in "
                f"{str(value.dtype).removeprefix('torch.')}; load the model in float32 (dtype: float32, and "
                f"train.bf16 may stay on), or write style: gradient"
            )
