"""Protocol TA (`methods.md` 7.2): three sft stages, one a task; a method acts in the second and the third.

Measured after the last: accuracy on its task (new), mean accuracy on the two before (old), that on the very
first, BWT = mean over
these of the end minus what they were when they had just been learnt, and min-ACC, the lowest mean accuracy on
the earlier tasks seen at log-spaced steps of the third stage.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import toy
from tests.bench.protocols import TASK_STEPS, Method, Protocol, slug

EARLY = (1, 2, 4, 8, 16, 32, 64, 128)


class TaskTables(Protocol):
    """Protocol TA in one seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.facts = toy.facts_of_tasks(seed)
        self.data = [
            toy.write_rows(folder / f"task-{number}.jsonl", toy.as_rows(facts))
            for number, facts in enumerate(self.facts)
        ]

    def measure(self, method: Method) -> dict[str, float]:
        """Train the chain of a method and measure it."""
        if method.is_joint:
            everything = toy.write_rows(
                self.folder / "joint.jsonl",
                [row for facts in self.facts for row in toy.as_rows(facts)],
            )
            steps = toy.TASKS * TASK_STEPS
            stage = self.train("joint", "sft", self.base, everything, steps, method.hooks)
            model = self.model(stage)
            scores = [self.accuracy(model, facts) for facts in self.facts]
            shutil.rmtree(stage)
            old = (scores[0] + scores[1]) / 2
            return {"new": scores[-1], "old": old, "first": scores[0], "bwt": 0.0}
        first = "task-0" if not method.first else f"{slug(method.name)}-0"
        stage = start = self.train(
            "task_0",
            "sft",
            self.base,
            self.data[0],
            TASK_STEPS,
            method.first,
            method.train if method.first else None,
            first,
        )
        learnt = [self.accuracy(self.model(stage), self.facts[0])]
        made, lowest = [], 1.0
        for number in range(1, toy.TASKS):
            with early_looks(self._old if number == toy.TASKS - 1 else None) as seen:
                stage = self.train(
                    f"task_{number}",
                    "sft",
                    stage,
                    self.data[number],
                    TASK_STEPS,
                    method.hooks,
                    method.train,
                    f"{slug(method.name)}-{number}",
                    number,
                )
            made.append(stage)
            learnt.append(self.accuracy(self.model(stage), self.facts[number]))
            lowest = min([lowest, *seen])
        model = self.model(stage)
        scores = [self.accuracy(model, facts) for facts in self.facts]
        old = (scores[0] + scores[1]) / 2
        bwt = ((scores[0] - learnt[0]) + (scores[1] - learnt[1])) / 2
        for folder in [*made, *([start] if method.first else [])]:
            shutil.rmtree(folder)
        return {
            "new": scores[-1],
            "old": old,
            "first": scores[0],
            "bwt": bwt,
            "min": min(lowest, old),
        }

    def _old(self, model: Any) -> float:
        return sum(self.accuracy(model, facts) for facts in self.facts[:-1]) / (toy.TASKS - 1)


@contextmanager
def early_looks(look: Callable[[Any], float] | None) -> Iterator[list[float]]:
    """What `look` finds at log-spaced steps of the stage that is trained meanwhile; nothing without it."""
    from cpt.generators import untouched_generators
    from cpt.hooks.stack import HookStack

    seen: list[float] = []
    real = HookStack.track

    def track(stack: HookStack, view: Any) -> None:
        real(stack, view)
        if look is not None and stack.ctx.step in EARLY:
            training = view.model.training
            with untouched_generators():
                seen.append(look(view.model.eval()))
            view.model.train(training)

    HookStack.track = track  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        HookStack.track = real  # type: ignore[method-assign]
