"""WiSE-FT: the stage's result is a blend with an earlier stage."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.past import Past

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Interpolate(Hook):
    """(1 - alpha) * w_earlier + alpha * w_trained, tensor by tensor, in fp32, at the stage's end.

    alpha 1 gives the trained weights and alpha 0 the earlier ones, bit for bit. Tied tensors are blended
    once.

    Settings:
        of: the earlier stage.
        alpha: weight of what was trained.

    Source: Wortsman et al. 2022, arXiv:2109.01903, eq. 1; `methods.md` B11.
    """

    name: ClassVar[str] = "interpolate"
    card: ClassVar = Card(
        family="weight averaging",
        formula="result: (1 - alpha) * w_earlier + alpha * w_trained, tensor by tensor",
        when="After a stage that stayed in the basin of its parent (a low learning rate, few "
        "epochs). Begin with alpha 0.7 and let the probes choose among 0.2 to 0.8.",
        cost="Nothing per step; at the end one earlier checkpoint is read.",
        state="0 (one copy of the earlier weights while blending)",
        fails="Far from the parent there is a ridge between the two: both tasks fall. Probe the "
        "blend, never the ends only.",
        evidence="production-validated",
        sources=("Wortsman et al. 2022, arXiv:2109.01903, eq. 1", "methods.md B11"),
    )
    order: ClassVar[int] = 2
    is_single: ClassVar[bool] = True

    of: str = "previous"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    earlier: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.of == "all":
            raise ValueError("`of` names one earlier stage, and `all` names several")

    def recalls(self) -> tuple[str, ...]:
        """The earlier stage."""
        return (self.of,)

    def compares(self) -> bool:
        """The two are blended tensor by tensor."""
        return self.alpha != 1

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Remember where the earlier stage is.

        Raises:
            HookError: there is no such stage.
        """
        (self.earlier,) = past.select(self.of)

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Blend in place, one tensor at a time.

        Raises:
            HookError: the two have other tensors or shapes.
        """
        if self.alpha == 1:
            return model
        import torch

        from cpt.checkpoint import load_model

        stage = self.earlier
        assert stage is not None
        earlier = dict(
            load_model(
                stage.checkpoint, dtype=str(model.dtype).removeprefix("torch.")
            ).named_parameters()
        )
        own = dict(model.named_parameters())
        odd = sorted(own.keys() ^ earlier.keys()) or sorted(
            n for n in own if own[n].shape != earlier[n].shape
        )
        if odd:
            raise HookError(
                f"interpolate: {stage.name} and {ctx.stage} differ in {odd[0]!r}; they do not blend"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                before = earlier[name].to(parameter.device)
                blend = (1 - self.alpha) * before.float() + self.alpha * parameter.float()
                # 1 * a + 0 * b is not a where b is infinite.
                parameter.copy_(before if self.alpha == 0 else blend.to(parameter.dtype))
        return model
