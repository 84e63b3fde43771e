"""What a stage that ends early has trained on is counted: rows, tokens, shares, and its exemplars."""

from pathlib import Path
from typing import Any

import pytest

from cpt.recipe import StageSpec
from cpt.settings import validate
from stages import kind_of
from stages.material import supply
from stages.seen import _candidates, ended
from stages.supply import Supply
from tests.stages.test_material import Old, stack, text, texts, write

STOPPED = ("num_steps", "exemplars", "description")


def made(folder: Path, kind: str, tokenizer: Any, data: Any, *olds: Old, **settings: Any) -> Supply:
    spec = validate(StageSpec, {"kind": kind, "data": data, **settings}, "s.yaml")
    folder.mkdir()
    return supply(kind_of(kind, "s.yaml"), spec, 17, stack(kind, *olds), tokenizer, folder)


WATCH = {"every": 1, "stop": True}


@pytest.mark.parametrize(
    ("kind", "train"),
    [
        ("sft", {}),
        ("sft", {"packing": True, "max_length": 40}),
        ("pretrain", {"max_length": 32}),
        ("pretrain", {"max_length": 4}),  # a document takes several rows, and steps
    ],
    ids=str,
)
def test_it_leaves_what_a_stage_of_so_many_steps_leaves(
    kind: str, train: dict[str, Any], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Of two data sets, one replayed, in epochs too."""
    data = [
        {"path": texts(tmp_path, 9, name="a"), "weight": 3},
        {"path": texts(tmp_path, 9, length=17, name="b")},
    ]
    old = Old([{"text": "y" * (3 + n % 9)} for n in range(7)], 0.25)
    train = {"batch_size": 2, **train}
    settings: dict[str, Any] = {"watch": WATCH, "train": train | {"max_steps": 12}}
    whole = made(tmp_path / "whole", kind, tiny_tokenizer, data, old, **settings)
    for step in range(1, 12):
        shorter = {"train": train | {"max_steps": step}}
        short = made(tmp_path / f"{step}", kind, tiny_tokenizer, data, old, **shorter)
        found = ended(whole, tmp_path / "whole", step, 1000)
        for name in STOPPED:
            assert getattr(found, name) == getattr(short, name)
        told = f"watch ended the stage at step {step} of 12"
        assert found.notes == [*whole.notes, told]
        rows = whole.train.select(range(2 * step))
        tokens = sum(len(row["input_ids"]) for row in rows)
        assert sum(entry["seen_tokens"] for entry in found.description) == tokens
    assert sum(entry["seen_tokens"] for entry in whole.description) == sum(
        len(row["input_ids"]) for row in whole.train
    )


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, [2, 4, 6, 8]),
        ({"num_iterations": 2}, [2, 2, 4, 4]),
        ({"generation_batch_size": 16}, [4, 4, 8, 8]),
    ],
    ids=str,
)
def test_a_prompt_counts_from_its_rollout_on(
    train: dict[str, Any], expected: list[int], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    rows = [{"prompt": [{"role": "user", "content": str(n)}], "answer": str(n)} for n in range(30)]
    data = {"path": write(tmp_path / "prompts.jsonl", rows)}
    settings: dict[str, Any] = {"batch_size": 8, "num_generations": 4, "max_steps": 6, **train}
    whole = made(
        tmp_path / "whole",
        "grpo",
        tiny_tokenizer,
        data,
        train=settings,
        watch=WATCH,
        rewards=["exact_match"],
    )
    order = [row["answer"] for row in whole.train]
    for step, number in enumerate(expected, start=1):
        found = ended(whole, tmp_path / "whole", step, 1000)
        assert [row["answer"] for row in found.exemplars] == order[:number]
        assert found.description[0]["seen_rows"] == number


def test_nothing_is_written_where_no_look_ends_the_stage(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    data = {"path": texts(tmp_path, 9)}
    for name, watch in (("none", None), ("looks", {"every": 1})):
        made(tmp_path / name, "sft", tiny_tokenizer, data, train={"max_steps": 2}, watch=watch)
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == [
            "supply.json",
            "train.arrow",
        ]


def test_many_rows_are_sampled_from_those_that_were_seen(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """And the whole stage leaves what it leaves without looks."""
    data = {"path": texts(tmp_path, 60)}
    settings: dict[str, Any] = {"train": {"batch_size": 4}, "exemplars": 10}
    plain = made(tmp_path / "plain", "sft", tiny_tokenizer, data, **settings)
    whole = made(tmp_path / "whole", "sft", tiny_tokenizer, data, watch=WATCH, **settings)
    assert whole.exemplars == plain.exemplars
    order = [tiny_tokenizer.decode(row["input_ids"]) for row in whole.train]
    for step in (1, 2, 5, 14):
        found = ended(whole, tmp_path / "whole", step, 10)
        places = [order.index(f"{row['text']}<|im_end|>") for row in found.exemplars]
        assert places == sorted(set(places))
        assert len(places) == min(10, 4 * step)
        assert max(places) < 4 * step
    assert order[0] == f"{text(int(order[0][:4]), 6)}<|im_end|>"


def test_a_sample_of_each_beginning_is_uniform() -> None:
    number, most, beginning, seeds = 90, 6, 30, 600
    times = [0] * beginning
    yielded = 0
    for seed in range(seeds):
        found = list(_candidates(number, seed, most))
        yielded += len(found)
        lowest = sorted((rank, row) for row, rank in found if row < beginning)[:most]
        assert len(lowest) == most
        for _, row in lowest:
            times[row] += 1
    expected = seeds * most / beginning  # 120, and a standard error of 9.8
    assert all(abs(count - expected) < 5 * 9.8 for count in times)
    # The sum of min(1, m / n) over n: 6 + 6 (H(90) - H(6)).
    assert yielded / seeds == pytest.approx(6 + 6 * (5.0826 - 2.45), abs=0.6)
