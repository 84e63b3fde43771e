"""What protocols TA and TB share: methods as recipes have them, stages through the product, accuracy."""

import hashlib
import json
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


def _filled(hooks: Sequence[Any], general: str, earlier: int) -> Any:
    """Hooks as a recipe has them: `{general}` is a path, "16 a task" as many times the tasks before."""
    text = json.dumps(list(hooks)).replace("{general}", general)
    return json.loads(re.sub(r'"(\d+) a task"', lambda found: str(int(found[1]) * earlier), text))


def _digest(content: object) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """A method's name as that of a folder."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
