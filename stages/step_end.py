"""What all processes of a training settle at the end of each step: whether to go on."""

from functools import cache
from typing import TYPE_CHECKING, Any

from cpt.world import World
from stages.finite import Finite
from stages.stopping import Stopping
from stages.trl_args import rollout_boundary

if TYPE_CHECKING:
    from torch import Tensor

    from stages.under_way import UnderWay


def settle_each_step(trainer: Any, stage: "UnderWay") -> None:
    """Let a trainer with hooks end where its numbers end, or where it is told to.

    Comes before what looks at the weights, and behind what decides whether a checkpoint is written.
    """
    job = stage.job
    boundary = rollout_boundary(stage.kind.config, {"batch_size": 8, **job.spec.train})
    stopping = Stopping(boundary, stage.world, lambda text: stage.log.say(f"{job.name}: {text}"))
    trainer.add_callback(_callback()(Finite(trainer, job, stage.world), stopping, stage.world))


def gathered(own: "Tensor", world: World) -> "Tensor":
    """[n] of each process -> [world size, n], on the CPU of every process; one message."""
    rows = own.new_zeros(world.size, len(own))
    rows[world.rank] = own
    return world.sum_(rows).cpu()


@cache
def _callback() -> type:
    from torch import cat
    from transformers import TrainerCallback

    class StepEnd(TrainerCallback):
        """Runs at the end of each step, and once its checkpoint is whole."""

        def __init__(self, finite: Finite, stopping: Stopping, world: World) -> None:
            self.finite, self.stopping, self.world = finite, stopping, world

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Look at the step's numbers, and at the weights where they are about to be kept."""
            own = self.finite.step()
            told = own.new_tensor([self.stopping.step()])
            found = gathered(cat([told, own]), self.world)
            self.finite.judge(found[:, 1:], state.global_step)
            self.stopping.judge(float(found[:, 0].sum()), state, control)
            if control.should_save:
                self._judge_weights(state)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Leave, if that is what the checkpoint was written for."""
            self.stopping.leave(state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Look at the weights that the stage is about to leave."""
            self._judge_weights(state)

        def _judge_weights(self, state: Any) -> None:
            found = gathered(self.finite.weights(), self.world)
            self.finite.judge_weights(found, state.global_step)

    return StepEnd
