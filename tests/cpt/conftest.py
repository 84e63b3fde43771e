"""A small chain on disk for tests of recipes, plans and ids: four stages, four JSONL files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt import plan, read_recipe, recipe

ROWS: dict[str, list[dict[str, Any]]] = {
    "texts": [{"text": f"a text with the number {n}"} for n in range(4)],
    "chats": [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]}
        for n in range(4)
    ],
    "pairs": [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(4)],
    "prompts": [{"prompt": f"{n}?", "answer": "yes"} for n in range(4)],
}
CHAIN: dict[str, Any] = {
    "name": "tiny",
    "seed": 17,
    "model": {
        "random": {
            "config": {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4},
            "tokenizer": {"vocab_size": 300, "builder": "general", "view": "chat"},
        }
    },
    "stages": {name: f"{name}.yaml" for name in ("pretrain", "sft", "dpo", "grpo")},
}
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {"kind": "pretrain", "data": "texts.jsonl", "train": {"learning_rate": 1e-4}},
    "sft": {
        "kind": "sft",
        "data": "chats.jsonl",
        "train": {"learning_rate": 1e-5, "batch_size": 4},
        "hooks": [{"replay": {"of": "pretrain", "share": 0.2}}, {"kl": {"beta": 0.1}}],
    },
    "dpo": {"kind": "dpo", "data": "pairs.jsonl", "train": {"learning_rate": 1e-6}},
    "grpo": {
        "kind": "grpo",
        "data": "prompts.jsonl",
        "rewards": ["exact_match"],
        "train": {"beta": 0.04, "num_generations": 4},
    },
}


class ChainFolder:
    """The chain's folder; `chain` and `stages` are trees to change before `write`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain: dict[str, Any] = json.loads(json.dumps(CHAIN))
        self.stages: dict[str, dict[str, Any]] = json.loads(json.dumps(STAGES))

    @property
    def path(self) -> Path:
        """The chain's own file."""
        return self.folder / "chain.yaml"

    def write(self) -> Path:
        """All files, as the trees are now."""
        self.folder.mkdir(exist_ok=True)
        for name, rows in ROWS.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            file = self.folder / f"{name}.jsonl"
            if not file.is_file():
                file.write_text(lines)
        for name, stage in self.stages.items():
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(stage, sort_keys=False))
        self.path.write_text(yaml.safe_dump(self.chain, sort_keys=False))
        return self.path

    def load(self, *changes: str) -> recipe.Recipe:
        """Write and load."""
        return read_recipe.load(self.write(), changes)

    def plan(self, *changes: str) -> plan.Plan:
        """Write, load and plan, for one process."""
        from stages import kind_of
        from stages.trl_fields import check_train

        return plan.make(self.load(*changes), kind_of, check_train)

    def ids(self, *changes: str) -> dict[str, str]:
        """Stage name -> id."""
        return {node.name: node.id for node in self.plan(*changes).nodes}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CPT_CACHE" not in __import__("os").environ:
        monkeypatch.setenv("CPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def chain(tmp_path: Path) -> ChainFolder:
    return ChainFolder(tmp_path / "tiny")


@pytest.fixture
def refused() -> Callable[..., str]:
    """Calls a function that must refuse, and returns its message."""
    from cpt.errors import CptError

    def message(function: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(CptError) as failed:
            function(*arguments)
        return str(failed.value)

    return message
