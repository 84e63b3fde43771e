"""Signs of life of a process that trains: the place that it passed last, for whoever watches over it.

Every process of a training passes the same places in the same order, so of several that stand still the one
that passed fewest is the one the others wait for.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Bytes of a sign in a file: one write of all of them is never half there.
_WIDTH = 200


@dataclass
class Beats:
    """What one process tells of itself.

    Attributes:
        count: places that it passed in its training.
        place: the last one.
        trains: whether it is in a training, where there must always be a next one.
        life: grows with every sign, also with those between two places.
        file: descriptor of a file that always holds the last sign; None: who watches is in this process.
    """

    count: int = 0
    place: str = "the start"
    trains: bool = False
    life: int = 0
    file: int | None = None

    def write_to(self, file: Path) -> None:
        """Keep the last sign in a file."""
        self.file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.touch()

    def begin(self) -> None:
        """A training begins."""
        self.count, self.trains = 0, True
        self.reach("its first step")

    def end(self) -> None:
        """It is over."""
        self.trains = False
        self.reach("the end of its training")

    def reach(self, place: str) -> None:
        """One place further."""
        self.count, self.place = self.count + 1, place
        self.touch()

    def touch(self) -> None:
        """A sign of life between two places."""
        self.life += 1
        if self.file is not None:
            sign = {name: getattr(self, name) for name in ("count", "place", "trains", "life")}
            os.pwrite(self.file, json.dumps(sign).ljust(_WIDTH).encode(), 0)


#: Of this process.
BEATS = Beats()


def give_signs(trainer: Any) -> None:
    """Let a trainer tell where it is."""
    loss_of = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        step = trainer.state.global_step + 1
        if not trainer.model.training:
            BEATS.touch()
            return loss_of(*args, **kwargs)
        BEATS.reach(f"step {step} at its loss")  # DDP's forward pass waits for the others already
        loss = loss_of(*args, **kwargs)
        BEATS.reach(f"step {step} behind its loss")
        return loss

    trainer.compute_loss = compute_loss
    trainer.add_callback(_callback()())


@cache
def _callback() -> type:
    from transformers import TrainerCallback

    class Signs(TrainerCallback):
        """One sign at least for every part of a step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """From here on there is always a next place."""
            BEATS.begin()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Before the step's rows are prepared, or its completions sampled."""
            BEATS.reach(f"step {state.global_step + 1} before its loss")

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Behind all that is reduced over processes."""
            BEATS.reach(f"step {state.global_step + 1} behind its optimizer")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Looks, held-out losses and checkpoints follow."""
            BEATS.reach(f"step {state.global_step} at its end")

        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """A batch of held-out rows."""
            BEATS.touch()

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """A checkpoint is whole."""
            BEATS.touch()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """What follows may take its time."""
            BEATS.end()

    return Signs
