"""Progress of a training: one line that says the step, the loss and the time left."""

import sys
import time
from collections.abc import Callable
from typing import Any


def replace_bars(trainer: Any, stage: str, say: Callable[[str], None], is_main: bool) -> None:
    """Let the trainer say where it stands in our way instead of its own."""
    from transformers import PrinterCallback, ProgressCallback

    for own in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(own)
    trainer.add_callback(progress_callback(stage, say, is_main))


def progress_callback(stage: str, say: Callable[[str], None], is_main: bool) -> Any:
    """A transformers callback; a live line on a terminal, a plain line every tenth of the way otherwise."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Counts steps."""

        def __init__(self) -> None:
            self.began = 0.0
            self.first = 0
            self.loss = ""
            self.said = -1

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Start the clock."""
            self.began, self.first = time.monotonic(), state.global_step

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            """Remember the loss."""
            if logs and "loss" in logs:
                self.loss = f"  loss {float(logs['loss']):.4f}"
                if "reward" in logs:
                    self.loss += f"  reward {float(logs['reward']):.3f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Say where it stands."""
            if not is_main:
                return
            done, total = state.global_step, state.max_steps
            seconds = time.monotonic() - self.began
            left = seconds / max(done - self.first, 1) * (total - done)
            line = f"{stage}: step {done}/{total}{self.loss}  {clock(seconds)} < {clock(left)} left"
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{line}" + ("\n" if done == total else ""))
                sys.stderr.flush()
            elif done == total or done * 10 // total > self.said:
                self.said = done * 10 // total
                say(line)

    return Progress()


def clock(seconds: float) -> str:
    """Minutes and seconds: 75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
