"""Looks at a stage's model while it trains; what they see is kept in `watch/` of the stage's folder.

`watch.jsonl` has a line for each look: its step, `kl`, `general_loss`, `general_loss_rise` and
`probe/<name>`, as far as they are measured. After an interruption looks are taken again, of the same weights.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt import ids
from cpt.errors import ProbeError
from cpt.generators import untouched_generators
from cpt.world import World
from stages.drift import Drift
from stages.look_cost import LookCost
from stages.notes import note_check

if TYPE_CHECKING:
    from cpt.watch import WatchSpec

FOLDER, FILE = "watch", "watch.jsonl"
#: The check that keeps what was told of the looks' cost.
COST = "look_cost"

#: (model, tokenizer, step, folder) -> scores by probe, and why the stage must end, if it must.
Look = Callable[[Any, Any, int, Path], tuple[Mapping[str, float], str]]


def watch(
    trainer: Any,
    spec: "WatchSpec",
    drift: Drift | None,
    look: Look | None,
    folder: Path,
    tokenizer: Any,
    world: World,
    say: Callable[[str], None],
) -> Any:
    """Let the trainer look at its model. Returns: the watcher, which knows where it ended the stage.

    Args:
        drift: the two cheap signals; None: not measured.
        look: measures the suite; None: there is none.
        folder: the stage's.
        say: told what a look found out of the ordinary.
    """
    watcher = _callback()(trainer, spec, drift, look, folder, tokenizer, world, say)
    trainer.add_callback(watcher)
    return watcher


@cache
def _callback() -> type:
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        """Looks after the step is whole: hooks have moved the weights, and no checkpoint is written yet."""

        def __init__(
            self,
            trainer: Any,
            spec: "WatchSpec",
            drift: Drift | None,
            look: Look | None,
            folder: Path,
            tokenizer: Any,
            world: World,
            say: Callable[[str], None],
        ) -> None:
            self.trainer, self.spec, self.drift, self.look = trainer, spec, drift, look
            self.folder, self.tokenizer, self.world, self.say = folder, tokenizer, world, say
            self.steps: frozenset[int] = frozenset()
            self.stopped_at: int | None = None
            self.seconds, self.since = 0.0, 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Look before the first step, and forget what was seen behind the step that goes on."""
            self.steps = frozenset(self.spec.steps(state.max_steps))
            self.cost = LookCost(len(self.steps), state.max_steps, self.look is not None)
            if self.world.is_main:
                (self.folder / FOLDER).mkdir(exist_ok=True)
                kept = [row for row in read(self.folder) if row["step"] <= state.global_step]
                lines = "".join(json.dumps(row) + "\n" for row in kept)
                ids.atomic_write(self.folder / FOLDER / FILE, lines)
                for result in (self.folder / FOLDER).glob("*/step-*.json"):
                    if int(result.stem.removeprefix("step-")) > state.global_step:
                        result.unlink()
                for unfinished in (self.folder / FOLDER).rglob(".*.partial"):
                    unfinished.unlink()  # of a process that was killed while it wrote
            if state.global_step == 0:
                self._look(0)
            self.since = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Look, and end the stage where that says so."""
            self.cost.stepped(time.monotonic() - self.since)
            if state.global_step in self.steps:
                self._act(state, control)
            if told := self.cost.told():
                self.say(told)
                if self.world.is_main:
                    note_check(self.folder, COST, told)
            self.since = time.monotonic()

        def _act(self, state: Any, control: Any) -> None:
            why = self._look(state.global_step)
            if why and self.spec.stop and state.global_step < state.max_steps:
                self.stopped_at = state.global_step
                self.say(f"watch: ends the stage at step {state.global_step}: {why}")
                control.should_training_stop = control.should_log = True
                # From a checkpoint of this very step the stage would go on; from one before, it ends
                # here again.
                control.should_save = False
            elif why:
                self.say(f"watch: step {state.global_step}: {why}")

        def _look(self, step: int) -> str:
            began = time.monotonic()
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            # Mixed precision wraps forward: a look measures as a reloaded checkpoint is measured.
            wrapped, own = model.forward, model.__dict__.get("_original_forward")
            if own is not None:
                model.forward = own
            modes = {module: module.training for module in model.modules()}
            use_cache = model.config.use_cache
            model.eval()
            found: dict[str, float] = {"step": float(step)}
            why = ""
            with untouched_generators():
                if self.drift is not None:
                    found |= self.drift.look(model)
                if self.look is not None:
                    scores, why = self._measured(self.look, model, step)
                    found |= {f"probe/{name}": value for name, value in scores.items()}
            model.config.use_cache = use_cache
            if own is not None:
                model.forward = wrapped
            for module, mode in modes.items():
                module.training = mode
            if self.world.is_main:
                with (self.folder / FOLDER / FILE).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
            seconds = time.monotonic() - began
            self.seconds += seconds
            self.cost.looked(seconds)
            return str(self.world.agree(why))

        def _measured(self, look: Look, model: Any, step: int) -> tuple[Mapping[str, float], str]:
            """The look, or nothing where the model gives no usable number and looks only look."""
            try:
                return look(model, self.tokenizer, step, self.folder / FOLDER)
            except ProbeError as error:
                if self.spec.stop:
                    raise
                self.say(f"watch: step {step}: no scores: {error}")
                return {}, ""

    return Watcher


def read(folder: Path) -> list[dict[str, float]]:
    """The looks of a stage so far, by step; a line that a killed process left unfinished is passed over."""
    file = folder / FOLDER / FILE
    if not file.is_file():
        return []
    rows: dict[float, dict[str, float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows[row["step"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return [rows[step] for step in sorted(rows)]
