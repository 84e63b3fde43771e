"""Whether a training still computes with numbers, and if not, where they ended.

A loss, a gradient or weights that are NaN or infinite make every later step worthless, and a checkpoint of
them would take the place of a good one. So each step looks at: the trainer's own loss, each hook's term, the
gradient behind the backward pass and behind each hook that edits it, and its norm; and the weights before
each checkpoint and at the end. What is looked at first in this order is the cause of the rest.

Under fp16 the scaler skips steps whose gradient overflows, as it should: there only losses and weights count.
"""

import math
from typing import TYPE_CHECKING, Any

from cpt.errors import CptError
from cpt.store import complete_checkpoints
from cpt.world import World
from stages.base import Job

if TYPE_CHECKING:
    from torch import Tensor

_SETTINGS = "lower train.learning_rate, set train.max_grad_norm"


class Finite:
    """The numbers of one training, step by step.

    Attributes:
        places: names of what is looked at, the causes before their consequences.
    """

    def __init__(self, trainer: Any, job: Job, world: World) -> None:
        self.trainer, self.job, self.world = trainer, job, world
        hooks = trainer.hooks
        self.terms = [key for key, _ in hooks.at("penalty")]
        self.places = [
            "the loss",
            *(f"the term of the hook {key}" for key in self.terms),
            "the gradient",
            *(f"the gradient behind {point} of the hook {key}" for point, key, _ in hooks.edits),
            "the gradient's norm",
        ]
        self._norm: Any = 0.0
        self._keep_norms()

    def step(self) -> "Tensor":
        """[len(places)], float64: 1 where this process's numbers of the step are not finite."""
        hooks = self.trainer.hooks
        # The trainer sums its loss until it logs, and a sum with NaN in it stays NaN.
        task = hooks.task if hooks.needs_tokens else self.trainer._tr_loss
        hooks.task = 0.0
        terms = [hooks.terms.get(key, 0.0) for key in self.terms]
        num_gradients = len(self.places) - 1 - len(terms)
        gradients = [*(hooks.gradient_sums or [0.0] * (num_gradients - 1)), self._norm]
        if self.trainer.args.fp16:
            gradients = [0.0] * num_gradients
        hooks.gradient_sums, self._norm = [], 0.0
        return self._stacked([task, *terms, *gradients])

    def weights(self) -> "Tensor":
        """[1], float64: 1 where what this process holds of the trained weights is not finite."""
        parameters = (p for p in self.trainer.model.parameters() if p.requires_grad)
        return self._stacked([sum(_own(p).sum(dtype=_wide(p)) for p in parameters)])

    def judge(self, found: "Tensor", step: int) -> None:
        """Refuse to go on from a step.

        Args:
            found: [world size, len(places)], what `step` gave on every process.
            step: its number.

        Raises:
            CptError: names the first place, and the process where it is only one.
        """
        for place, column in zip(self.places, found.T.tolist(), strict=True):
            ranks = [rank for rank, is_so in enumerate(column) if is_so]
            if ranks:
                raise self._error(step, place, ranks)

    def judge_weights(self, found: "Tensor", step: int) -> None:
        """Refuse to keep weights; `found`: [world size, 1]. Raises: CptError."""
        ranks = [rank for rank, (is_so,) in enumerate(found.tolist()) if is_so]
        if ranks:
            raise self._error(step, "a weight", ranks)

    def _error(self, step: int, place: str, ranks: list[int]) -> CptError:
        on = f" on process {ranks[0]}" if len(ranks) < self.world.size else ""
        before = [row for row in self.trainer.state.log_history if "loss" in row]
        last = before[-1] if before else {}
        was = f" (loss {last['loss']:.4g} at step {last['step']})" if last else ""
        kept = complete_checkpoints(self.job.partial / "trainer")
        good = f"the weights of step {kept[-1][0]} are in {kept[-1][1]}" if kept else "none is kept"
        hook = place.rpartition(" hook ")[2] if " hook " in place else ""
        first = f"weaken {hook}, {_SETTINGS}" if hook else _SETTINGS
        return CptError(
            f"{self.job.name}: step {step}: {place} is no finite number{on}{was}; of the checkpoints before "
            f"it, {good}; the same command would come to the same step, so {first}, or look at the "
            f"rows of this step"
        )

    def _keep_norms(self) -> None:
        """Remember what the trainer finds when it clips."""
        norm_of = self.trainer._get_grad_norm

        def kept(*args: Any, **kwargs: Any) -> Any:
            norm = norm_of(*args, **kwargs)
            # DeepSpeed says -1 where the norm is not finite (runtime/zero/stage3.py).
            self._norm = math.nan if isinstance(norm, float) and norm < 0 else norm
            return norm

        self.trainer._get_grad_norm = kept

    def _stacked(self, values: list[Any]) -> "Tensor":
        import torch

        device = self.world.device
        numbers = [torch.as_tensor(_whole(value), device=device).double() for value in values]
        return (~torch.stack([number.reshape(()) for number in numbers]).isfinite()).double()


def _whole(value: Any) -> Any:
    """A number that FSDP2 spreads, in one piece; none where a backend tells none."""
    if value is None:
        return 0.0
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _own(parameter: Any) -> Any:
    """What this process holds of a parameter under ZeRO-3 and FSDP2; all of it elsewhere."""
    shard = getattr(parameter, "ds_tensor", parameter).detach()
    return shard.to_local() if hasattr(shard, "to_local") else shard


def _wide(parameter: Any) -> Any:
    """The type to sum in: half precision would overflow."""
    import torch

    return torch.promote_types(parameter.dtype, torch.float32)
