"""What a suite asks of a model, against counts by hand and the comments that state it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.cost import Cost, costs
from eval.suite import load_suite

PROBES = Path(__file__).parents[2] / "configs" / "probes"
BASE: dict[str, Any] = {
    "dataset_path": "json",
    "test_split": "test",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "writes": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "",
        "generation_kwargs": {"max_gen_toks": 10},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    rows = [{"question": "q" * 30, "options": ["a" * 10] * 4, "answer": 0, "note": "n" * 99}] * 5
    (tmp_path / "tasks" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        (tmp_path / "tasks" / f"{name}.yaml").write_text(
            yaml.safe_dump({"task": name} | BASE | task)
        )
    return tmp_path


def test_items_requests_and_tokens_by_hand(folder: Path) -> None:
    probes = {
        "choices": {"group": "code", "metric": "acc"},
        "again": {"task": "choices", "group": "code", "metric": "acc_norm"},
        "shot": {"task": "choices", "group": "code", "metric": "acc", "shots": 1, "limit": 2},
        "writes": {"group": "code", "limit": 3},
        "arc_easy": {"group": "code"},
    }
    file = folder / "small.yaml"
    file.write_text(
        yaml.safe_dump({"name": "small", "include": "tasks", "probes": probes}, sort_keys=False)
    )
    assert costs(load_suite(file)) == {
        "choices": Cost(5, 20, 20 * 40 // 4, 0),
        "shot": Cost(2, 8, 2 * 8 * 40 // 4, 0),
        "writes": Cost(3, 3, round(3 * 30 / 4), 30),
        "arc_easy": None,
    }


def test_the_behaviour_suite_says_what_it_costs() -> None:
    file = PROBES / "behaviour.yaml"
    found = [cost for cost in costs(load_suite(file)).values() if cost]
    stated = re.findall(r"([\d,]+) (items|generations|new tokens)", file.read_text("utf-8"))
    assert {what: int(number.replace(",", "")) for number, what in stated} == {
        "items": sum(cost.num_items for cost in found),
        "generations": sum(cost.num_requests for cost in found),
        "new tokens": sum(cost.num_new_tokens for cost in found),
    }


def test_the_safety_suite_says_what_it_costs_here() -> None:
    file = PROBES / "safety.yaml"
    found = [cost for cost in costs(load_suite(file)).values() if cost]
    text = " ".join(file.read_text("utf-8").split())
    tokens = sum(cost.num_new_tokens for cost in found)
    assert (
        f"{sum(c.num_items for c in found)} items here with at most {tokens:,} new tokens" in text
    )


@pytest.mark.parametrize("path", sorted(PROBES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_begins_with_what_it_costs(path: Path) -> None:
    head = path.read_text("utf-8").partition("\nname:")[0]
    assert re.search(r"minute|second", head)
