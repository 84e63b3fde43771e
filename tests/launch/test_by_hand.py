"""A stage by hand has the roles that its kind uses, as a chain's stages have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt.errors import CptError
from launch.by_hand import job_by_hand
from stages.base import Job

STAGES: dict[str, dict[str, Any]] = {
    "sft": {"data": "rows.jsonl"},
    "dpo": {"data": "rows.jsonl"},
    "grpo": {"data": "rows.jsonl", "rewards": ["exact_match"], "train": {"num_generations": 4}},
}


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[..., Job]:
    """Write a stage of a kind and read it as `launch.stage` does; its parent is a folder `parent`."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1?"}) + "\n")
    for name in ("parent", "other"):
        (tmp_path / name).mkdir()

    def job(kind: str, *arguments: str) -> Job:
        file = tmp_path / f"{kind}.yaml"
        file.write_text(yaml.safe_dump({"kind": kind, **STAGES[kind]}))
        places = (f"parent={tmp_path / 'parent'}", f"output={tmp_path / 'output'}")
        return job_by_hand([str(file), *places, *arguments])

    return job


@pytest.mark.parametrize(
    ("kind", "arguments", "reference"),
    [
        ("sft", [], None),
        ("dpo", [], "parent"),
        ("dpo", ["reference={folder}/other"], "other"),
        ("dpo", ["train.beta=0"], None),
        ("grpo", [], None),
        ("grpo", ["train.beta=0.1"], "parent"),
        ("grpo", ["train.beta=0.1", "reference={folder}/other"], "other"),
    ],
)
def test_the_reference_is_what_the_kind_uses(
    kind: str, arguments: list[str], reference: str | None, by_hand: Any, tmp_path: Path
) -> None:
    job = by_hand(kind, *(argument.format(folder=tmp_path) for argument in arguments))
    expected = {} if reference is None else {"reference": str(tmp_path / reference)}
    assert job.roles == expected
    assert job.parents.keys() == {"parent", *expected}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sft", "sft.yaml: reference: a sft stage has no reference"),
        ("grpo", "is unused as train: is set; remove reference, or change train:"),
    ],
)
def test_a_reference_without_a_use_is_refused(
    kind: str, words: str, by_hand: Any, tmp_path: Path
) -> None:
    with pytest.raises(CptError) as failed:
        by_hand(kind, f"reference={tmp_path / 'other'}")
    assert words in str(failed.value)
