"""The benchmark of the probes' backend, on a model and data of a few tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.suite import Probe, load_suite, materialise
from tests.bench import probing_tasks
from tests.bench.probing import by_turns, table
from tests.bench.probing_sides import PARTS, SIDES, Side, largest_difference, same


def test_both_sides_of_every_task(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = {
        "eval/hellaswag_val_a.jsonl": {
            "query": "a man",
            "choices": ["runs off", "eats"],
            "gold": 1,
        },
        "math/gsm8k_test.jsonl": {"question": "1 + 1?", "answer": "It is 2. #### 2", "final": "2"},
    }
    for name, row in rows.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"{json.dumps(row)}\n" * 6)
    path, skipped = probing_tasks.write(tmp_path, tmp_path / "suite", 2)
    assert [line.partition(" is ")[0].partition(":")[0] for line in skipped] == ["lambada"]
    assert path is not None
    suite = load_suite(path)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    folder, tasks = materialise(suite, tmp_path / "tasks"), dict[str, Any]()
    sides = [Side(name, model, tokenizer, suite) for name in SIDES]
    assert [side.lm.batch_size for side in sides] == [16, 16, 64, 16]
    for number, probe in enumerate(suite.probes.values()):
        found = by_turns(sides, probe, folder, 1, number)
        assert {*found["seconds"]} == {*SIDES}
        assert found["items"] == 2
        assert found["difference"] is not None
        assert found["difference"] < 1e-4
        assert found["equal"]
        for parts in found["parts"].values():
            assert sum(parts[part] for part in PARTS) == pytest.approx(parts["all"], abs=0.01)
            assert min(parts.values()) >= 0
        tasks[probe.name] = {"suite": "shared", **found}
    shown = table(
        {
            "model": "m", "dtype": "float32", "device": "cpu", "threads": 1, "repeats": 1,
            "tasks": tasks, "skipped": skipped,
        }
    )  # fmt: skip
    assert shown.count("| hellaswag |") == 2
    assert "| **shared** |" in shown
    lines = [line for line in shown.split("Where")[0].splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {12}


def test_who_begins_changes_with_task_and_repeat(tmp_path: Path) -> None:
    ran: list[str] = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, probe: Any, folder: Path) -> dict[str, Any]:
            ran.append(self.name)
            return {"answers": [[0.0]], "metrics": {}, "parts": {"all": 1.0}}

    sides: Any = [Noted(name) for name in SIDES]
    probe = Probe("p", "p", "code", None, 0, False, None, None, None, None, "f")
    by_turns(sides, probe, tmp_path, 2, 1)
    assert ran == [*SIDES, *SIDES[1:], SIDES[0], *SIDES[2:], *SIDES[:2]]  # all are warmed first


def test_answers_are_compared_place_by_place() -> None:
    ones = [[[(-1.5, True)], [(-2.0, False)]]]
    assert largest_difference(ones, [[[(-1.5, True)], [(-2.25, False)]]]) == 0.25
    assert largest_difference([["a"]], [["a"]]) == 0
    assert largest_difference([["a"]], [["b"]]) is None
    assert same({"acc,none": 0.5}, {"acc,none": 0.5})
    assert not same({"acc,none": 0.5}, {"acc,none": 0.5 + 1 / 2000})
