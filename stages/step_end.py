"""What all processes of a training settle at the end of each step: whether to go on."""

from functools import cache
from typing import TYPE_CHECKING, Any

from cpt.world import World
from stages.finite import Finite

if TYPE_CHECKING:
    from torch import Tensor

    from stages.under_way import UnderWay


def settle_each_step(trainer: Any, stage: "UnderWay") -> None:
    """Let a trainer with hooks end where its numbers end.

    Comes before what looks at the weights, and behind what decides whether a checkpoint is written.
    """
    trainer.add_callback(_callback()(Finite(trainer, stage.job, stage.world), stage.world))


def gathered(own: "Tensor", world: World) -> "Tensor":
    """[n] of each process -> [world size, n], on the CPU of every process; one message."""
    rows = own.new_zeros(world.size, len(own))
    rows[world.rank] = own
    return world.sum_(rows).cpu()


@cache
def _callback() -> type:
    from transformers import TrainerCallback

    class StepEnd(TrainerCallback):
        """Runs at the end of each step, before its checkpoint is written."""

        def __init__(self, finite: Finite, world: World) -> None:
            self.finite, self.world = finite, world

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Look at the step's numbers, and at the weights where they are about to be kept."""
            found = gathered(self.finite.step(), self.world)
            self.finite.judge(found, state.global_step)
            if control.should_save:
                self._judge_weights(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Look at the weights that the stage is about to leave."""
            self._judge_weights(state)

        def _judge_weights(self, state: Any) -> None:
            found = gathered(self.finite.weights(), self.world)
            self.finite.judge_weights(found, state.global_step)

    return StepEnd
