"""Told to end while it trains, a stage saves at the end of a step and leaves; everything else ends at once.

A signal's handler only notes that it came (`REQUEST`). At the end of each step the processes agree whether
one of them was told, and write a checkpoint of that very step, so that none of it is trained again. What
samples while it trains goes on to the end of its rollout: between two of them it could not continue exactly.

transformers' own `enable_jit_checkpoint` notes the signal with each process for itself, so that two of them
may save at different steps and wait for each other; it stays refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from cpt.world import World

#: Exit code of a run that ended before it was done, and that the same command continues.
PREEMPTED = 4


@dataclass
class Request:
    """Whether somebody told this process to end, and whether anything waits for that.

    Attributes:
        is_made: it was told to.
        is_heeded: a training looks at the end of each of its steps.
        pass_on: tells the processes that train for this one; whether there were any.
    """

    is_made: bool = False
    is_heeded: bool = False
    pass_on: Callable[[], bool] | None = None

    def take(self) -> bool:
        """Note that somebody told this process to end; False where it must end at once.

        Nothing waits for the end of a step, or it was told for the second time.
        """
        if self.is_made or not (self.is_heeded or (self.pass_on is not None and self.pass_on())):
            return False
        self.is_made = True
        return True


#: A process has one set of signal handlers, and so one request.
REQUEST = Request()


@contextmanager
def heeding() -> Iterator[None]:
    """While a training looks at `REQUEST`; told in its last step, it ends behind it.

    Raises:
        SystemExit: 4, when it was told to end.
    """
    REQUEST.is_heeded = True
    try:
        yield
    finally:
        REQUEST.is_heeded = False
    if REQUEST.is_made:
        raise SystemExit(PREEMPTED)


class Stopping:
    """Ends one training when it is told to.

    Args:
        boundary: optimizer steps between two at which it can be continued exactly.
        say: told when it ends.
    """

    def __init__(self, boundary: int, world: World, say: Callable[[str], None]) -> None:
        self.boundary, self.world, self.say = boundary, world, say
        self.is_saving = False

    def step(self) -> float:
        """1 where this process was told to end."""
        return float(REQUEST.is_made)

    def judge(self, num_told: float, state: Any, control: Any) -> None:
        """Have a checkpoint written where a process was told to end and this step can be continued."""
        is_last = state.global_step == state.max_steps
        if num_told and (is_last or state.global_step % self.boundary == 0):
            REQUEST.is_made = True  # on every process
            control.should_save = control.should_log = self.is_saving = True

    def leave(self, step: int) -> None:
        """End, now that the checkpoint is whole, if that is what it was written for.

        Raises:
            SystemExit: 4.
        """
        if self.is_saving:
            self._end(step)

    def _end(self, step: int) -> NoReturn:
        self.world.barrier()  # the main process may still keep something of the checkpoint
        self.say(f"told to end: step {step} is kept")
        raise SystemExit(PREEMPTED)
