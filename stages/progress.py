"""Progress of a training: one line that says the step, the loss and the time left."""

import sys
import time
from typing import Any

from stages.log import StageLog


def replace_bars(trainer: Any, stage: str, log: StageLog, is_main: bool) -> None:
    """Let the trainer say where it stands in our way instead of its own."""
    from transformers import PrinterCallback, ProgressCallback

    for own in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(own)
    trainer.add_callback(progress_callback(stage, log, is_main))


def progress_callback(stage: str, log: StageLog, is_main: bool) -> Any:
    """A transformers callback: a plain line every tenth of the way, and on a terminal one live line instead.

    The log keeps the plain lines either way.
    """
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
            is_live = sys.stderr.isatty()
            if is_live:
                sys.stderr.write(f"\r\033[K{line}" + ("\n" if done == total else ""))
                sys.stderr.flush()
            if done == total or done * 10 // total > self.said:
                self.said = done * 10 // total
                (log.note if is_live else log.say)(line)

    return Progress()


def clock(seconds: float) -> str:
    """Minutes and seconds: 75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
