"""The stage's result is the moving average of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook, Need
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cpt.params import View


@dataclass
class EMA(Hook):
    """m_n = decay * m_{n-1} + (1 - decay) * w_n from m_0 = 0, and the stage gives m_n / (1 - decay^n).

    The division makes the first average w_1 and gives every step its weight decay^(n-k) / sum. fp32, one copy
    of the trainable weights. decay 0 gives the last weights.

    Settings:
        decay: 0.999 for long stages, 0.99 below about 1,000 steps.

    Source: Polyak and Juditsky 1992; the bias correction is that of Kingma and Ba 2014, arXiv:1412.6980,
    section 3; `methods.md` B10.
    """

    name: ClassVar[str] = "ema"
    needs: ClassVar[frozenset[Need]] = frozenset({"parameters"})
    card: ClassVar = Card(
        family="weight averaging",
        formula="""m_n = decay * m_(n-1) + (1 - decay) * w_n    from m_0 = 0
result: m_n / (1 - decay^n)""",
        when="Almost free and rarely harmful: smooths the end of a noisy stage. decay 0.999, or "
        "0.99 below about 1,000 steps.",
        cost="One pass over the trained weights per optimizer step.",
        state="4",
        fails="A decay whose memory, 1 / (1 - decay) steps, is as long as the stage gives the "
        "weights of its beginning. It averages within one stage, so it undoes little forgetting.",
        evidence="production-validated",
        sources=(
            "Polyak and Juditsky 1992, doi:10.1137/0330046",
            "Kingma and Ba 2014, arXiv:1412.6980, section 3 (the bias correction)",
            "methods.md B10",
        ),
    )
    order: ClassVar[int] = 0
    is_single: ClassVar[bool] = True
    track_order: ClassVar[int] = 3

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    mean: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    num_steps: int = field(default=0, init=False, repr=False)

    def bytes_per_weight(self) -> float:
        """The average."""
        return 4.0

    def track(self, view: "View", ctx: StageContext) -> None:
        """Move the average by one step."""
        import torch

        self.num_steps += 1
        for name, weights, _ in view.shards():
            if name not in self.mean:
                self.mean[name] = torch.zeros_like(weights, dtype=torch.float32)
            # What an interruption brought back lies on the CPU.
            self.mean[name] = self.mean[name].to(weights.device)
            self.mean[name].lerp_(weights.float(), 1 - self.decay)

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Put the average in place of the weights.

        Raises:
            HookError: no step was tracked, or the names differ: the average would be of something else.
        """
        from cpt.params import trainable

        if self.num_steps == 0:
            raise HookError("ema: the stage took no optimizer step, so there is nothing to average")
        parameters = dict(trainable(model))
        if parameters.keys() != self.mean.keys():
            odd = sorted(parameters.keys() ^ self.mean.keys())
            raise HookError(
                f"ema: averaged other parameters than the model trains, such as {odd[0]!r}"
            )
        correction = 1 - self.decay**self.num_steps
        for name, parameter in parameters.items():
            parameter.data.copy_((self.mean[name] / correction).to(parameter.dtype))
        return model

    def per_weight(self) -> "tuple[dict[str, Tensor], ...]":
        """The average."""
        return (self.mean,)

    def state_dict(self) -> dict[str, "Tensor"]:
        """The average and the number of steps."""
        import torch

        return {**self.mean, "num_steps": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: Mapping[str, "Tensor"]) -> None:
        """Take both back."""
        self.mean = {name: value.clone() for name, value in state.items() if name != "num_steps"}
        self.num_steps = int(state["num_steps"])
