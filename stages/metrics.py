"""metrics.jsonl: one line per logged step, there while the stage still trains.

An interrupted stage begins the file anew from the log in the trainer's checkpoint, so that no step is missing
or there twice. A window of the log ends at each checkpoint, which makes the lines those of an
uninterrupted stage, except for times.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cpt import ids

FILE = "metrics.jsonl"


def record_metrics(trainer: Any, folder: Path, is_main: bool) -> None:
    """Let the trainer write what it logs; every process calls this, and the main one writes."""
    trainer.add_callback(_callback()(folder / FILE, is_main))


def line(entry: Mapping[str, Any]) -> str:
    """The numbers of a log entry as one line; none for the summary of times at a training's end."""
    if "train_runtime" in entry:
        return ""
    numbers = {key: float(value) for key, value in entry.items() if isinstance(value, int | float)}
    return json.dumps(numbers) + "\n"


def is_measured(state: Any) -> bool:
    """Whether the held-out loss after the last step is known."""
    return any("eval_loss" in row and row["step"] == state.global_step for row in state.log_history)


@cache
def _callback() -> type:
    from transformers import TrainerCallback

    class Metrics(TrainerCallback):
        """Writes after each log; the log itself is already reduced over processes."""

        def __init__(self, file: Path, is_main: bool) -> None:
            self.file, self.is_main = file, is_main

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Keep what the checkpoint knows of; nothing, where there is none."""
            if self.is_main:
                ids.atomic_write(self.file, "".join(map(line, state.log_history)))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """A trainer forgets at a checkpoint what it has summed for its log; so it logs there."""
            if control.should_save:
                control.should_log = True

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Append and flush."""
            if self.is_main:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(line(state.log_history[-1]))

    return Metrics
