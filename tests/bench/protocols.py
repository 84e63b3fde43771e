"""Protocols TA and TB through the product's own stages: train, measure, forget the weights.

TA (`methods.md` 7.2): three sft stages, one a task; a method acts in the second and the third. Measured after
the last: accuracy on its task (new), mean accuracy on the two before (old), BWT = mean over these of the end
minus what they were when they had just been learnt, and min-ACC, the lowest mean accuracy on the earlier
tasks seen at log-spaced steps of the third stage.

TB: one pretrain stage on the language, shared by all methods, then one sft stage on the skill. Measured: task
accuracy, the rise of the loss on held-out language in nats per token, the forward KL(before || after) on the
skill's prompts, and ||w - w0||.
"""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.manifest import Manifest
from cpt.read_recipe import check_stage
from stages import kind_of
from stages.base import Job
from stages.trl_fields import check_train
from tests.bench import toy

TRAIN = {
    "batch_size": 32,
    "optim": "adamw_torch",
    "weight_decay": 0.01,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "learning_rate": 2e-3,
    "logging_steps": 1000,
    "max_length": 32,
}
TASK_STEPS, LANGUAGE_STEPS, SKILL_STEPS = 250, 500, 200
LANGUAGE_ROWS, HELD_OUT_ROWS = 4000, 256
EARLY = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Method:
    """A method as a recipe would have it.

    Attributes:
        name: in the tables.
        hooks: of the stages that it acts in, as a recipe lists them; `{general}` stands for the path of
            general text, and "16 a task" for 16 times the number of tasks before.
        first: hooks of the stage before, where the method must have measured there.
        train: changes of the training settings.
        is_joint: one stage on all data instead of a sequence.
    """

    name: str
    hooks: Sequence[Any] = ()
    first: Sequence[Any] = ()
    train: Mapping[str, Any] | None = None
    is_joint: bool = False

    def key(self) -> str:
        """Of all that decides what the method gives, for results that are kept."""
        steps = (TASK_STEPS, LANGUAGE_STEPS, SKILL_STEPS)
        settings = (list(self.hooks), list(self.first), self.train, self.is_joint)
        return _digest([settings, TRAIN, steps])


def checked_hooks(
    hooks: Sequence[Any], train: Mapping[str, Any] | None, kind: str, name: str
) -> list[Hook]:
    """The hooks of a method's stage, with every file and number filled in.

    Raises:
        CptError: they take other settings, or stand in no stage of this kind.
    """
    tree = {
        "kind": kind,
        "data": {"path": "./rows.jsonl"},
        "hooks": _filled(hooks, "./general.jsonl", 1),
        "train": {**TRAIN, **(train or {})},
    }
    spec = check_stage(tree, name)
    built = [table.build(hook.name, dict(hook.settings), name) for hook in spec.hooks]
    for hook in built:
        hook.check(kind, name)
    check_train(kind_of(kind, name).config, spec.train, name)
    return built


class Protocol:
    """One seed of one protocol in a folder of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.words = toy.tokenizer()
        self.base = self._base()

    def _base(self) -> Path:
        folder = self.folder / "base"
        if not (folder / "manifest.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            toy.model(self.seed, self.words).save_pretrained(folder / "checkpoint")
            self.words.save_pretrained(folder / "checkpoint")
            Manifest(id="base-0", kind="base", name="base").write(folder)
        return folder

    def train(
        self,
        name: str,
        kind: str,
        parent: Path,
        data: Any,
        steps: int,
        hooks: Sequence[Any] = (),
        train: Mapping[str, Any] | None = None,
        output: str | None = None,
        earlier: int = 1,
    ) -> Path:
        """A stage, unless it is there; returns its folder."""
        from stages.run import run

        tree = {
            "kind": kind,
            "data": data,
            "hooks": _filled(hooks, str(self.general), earlier),
            "train": {**TRAIN, "max_steps": steps, **(train or {})},
        }
        # A stage that an interrupted call left is taken for what it was trained with.
        trained_with = json.dumps([tree, parent.name]).replace(str(self.folder), "")
        folder = self.folder / f"{output or name}-{_digest(trained_with)}"
        if (folder / "manifest.json").is_file():
            return folder
        job = Job(
            name=name,
            id=folder.name,
            spec=check_stage(tree, f"{name}.yaml"),
            seed=self.seed,
            parent=str(parent),
            roles={},
            output=folder,
            inputs={},
            parents={"parent": parent.name},
            store=self.folder,
        )
        run(job, lambda line: None)
        return folder

    @property
    def general(self) -> Path:
        """General text, for the hooks that name it."""
        return self.folder / "general.jsonl"

    def model(self, stage: Path) -> Any:
        """What a stage left, to be measured."""
        from cpt.checkpoint import load_model

        return load_model(str(stage / "checkpoint")).eval()

    def accuracy(self, model: Any, facts: Sequence[toy.Fact]) -> float:
        """Share of facts whose answer is the likeliest next token."""
        import torch

        prompts = torch.tensor([self.words(prompt)["input_ids"] for prompt, _ in facts])
        (answers,) = zip(
            *(self.words.encode(a, add_special_tokens=False) for _, a in facts), strict=True
        )
        with torch.no_grad():
            guessed = model(input_ids=prompts).logits[:, -1].argmax(-1)
        return float((guessed == torch.tensor(answers)).double().mean())


class TaskTables(Protocol):
    """Protocol TA."""

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
            return {"new": scores[-1], "old": (scores[0] + scores[1]) / 2, "bwt": 0.0}
        first = "task-0" if not method.first else f"{_slug(method.name)}-0"
        stage = start = self.train(
            "task_0", "sft", self.base, self.data[0], TASK_STEPS, method.first, output=first
        )
        learnt = [self.accuracy(self.model(stage), self.facts[0])]
        made, lowest = [], 1.0
        for number in range(1, toy.TASKS):
            with early_looks(number == toy.TASKS - 1, self, lambda m: self._old(m)) as seen:
                stage = self.train(
                    f"task_{number}",
                    "sft",
                    stage,
                    self.data[number],
                    TASK_STEPS,
                    method.hooks,
                    method.train,
                    f"{_slug(method.name)}-{number}",
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
        return {"new": scores[-1], "old": old, "bwt": bwt, "min": min(lowest, old)}

    def _old(self, model: Any) -> float:
        return sum(self.accuracy(model, facts) for facts in self.facts[:-1]) / (toy.TASKS - 1)


class GeneralAndSkill(Protocol):
    """Protocol TB."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.language = toy.language(seed)
        source = random.Random(f"{seed}/texts")
        texts = [self.language.text(source) for _ in range(LANGUAGE_ROWS + HELD_OUT_ROWS)]
        self.held_out = texts[LANGUAGE_ROWS:]
        self.texts = toy.write_rows(self.general, [{"text": t} for t in texts[:LANGUAGE_ROWS]])
        self.facts = toy.skill(seed)
        self.data = toy.write_rows(folder / "skill.jsonl", toy.as_rows(self.facts))

    def measure(self, method: Method) -> dict[str, float]:
        """Train the skill with a method and measure what it cost."""
        import torch

        name = "language" if not method.first else f"{_slug(method.name)}-language"
        start = self.train(
            "language", "pretrain", self.base, self.texts, LANGUAGE_STEPS, method.first, output=name
        )
        before = self.model(start)
        steps = int((method.train or {}).get("max_steps", SKILL_STEPS))
        stage = self.train(
            "skill", "sft", start, self.data, steps, method.hooks, method.train, _slug(method.name)
        )
        after = self.model(stage)
        prompts = torch.tensor([self.words(prompt)["input_ids"] for prompt, _ in self.facts])
        with torch.no_grad():
            p = before(input_ids=prompts).logits.double().log_softmax(-1)
            q = after(input_ids=prompts).logits.double().log_softmax(-1)
        drift = sum(
            float((one.detach() - other.detach()).double().square().sum())
            for one, other in zip(after.parameters(), before.parameters(), strict=True)
        )
        result = {
            "task": self.accuracy(after, self.facts),
            "general": self._loss(after) - self._loss(before),
            "kl": float((p.exp() * (p - q)).sum(-1)[:, 1:].mean()),
            "drift": drift**0.5,
        }
        for folder in [stage, *([start] if method.first else [])]:
            shutil.rmtree(folder)
        return result

    def _loss(self, model: Any) -> float:
        """Nats per word of held-out language, among its words.

        The skill teaches that EOS follows an answer, as every sft stage does, and so after four words of any
        text; the reference implementation has no EOS. What is measured is which word follows.
        """
        import torch

        ids = torch.tensor([self.words(text)["input_ids"] for text in self.held_out])
        first = int(self.words.convert_tokens_to_ids("w0"))
        with torch.no_grad():
            logits = model(input_ids=ids).logits.double()[:, 1:-1, first : first + toy.WORDS]
        # The first word follows from nothing.
        return -float(logits.log_softmax(-1).gather(2, ids[:, 2:, None] - first).mean())


class early_looks:  # noqa: N801 - reads as what it does
    """Measure at log-spaced steps of the stage that is trained meanwhile."""

    def __init__(self, is_on: bool, protocol: Protocol, look: Any) -> None:
        self.is_on, self.look = is_on, look
        self.seen: list[float] = []

    def __enter__(self) -> list[float]:
        from cpt.generators import untouched_generators
        from cpt.hooks.stack import HookStack

        self.real = HookStack.track
        if self.is_on:
            outer = self

            def track(stack: HookStack, view: Any) -> None:
                outer.real(stack, view)
                if stack.ctx.step in EARLY:
                    training = view.model.training
                    with untouched_generators():
                        outer.seen.append(outer.look(view.model.eval()))
                    view.model.train(training)

            HookStack.track = track  # type: ignore[method-assign, assignment]
        return self.seen

    def __exit__(self, *_: object) -> None:
        from cpt.hooks.stack import HookStack

        HookStack.track = self.real  # type: ignore[method-assign]


def _filled(hooks: Sequence[Any], general: str, earlier: int) -> Any:
    """Hooks as a recipe has them: `{general}` is a path, "16 a task" as many times the tasks before."""
    text = json.dumps(list(hooks)).replace("{general}", general)
    return json.loads(re.sub(r'"(\d+) a task"', lambda found: str(int(found[1]) * earlier), text))


def _digest(content: object) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
