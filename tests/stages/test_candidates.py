"""Checkpoints that a stage keeps on its way, for a gate to go back to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt.checkpoint import load_model
from cpt.hooks import table
from stages.candidates import (
    candidate_steps,
    has_candidates,
    kept,
    remove_candidates,
    write_candidate,
)
from tests.tiny_stages import Interrupted, equal, weights_of


@pytest.mark.parametrize(
    ("num_steps", "every", "most", "steps"),
    [
        (10, None, 3, ()),
        (10, 20, 3, ()),
        (6, 2, 3, (2, 4)),  # the last step is the result
        (100, 10, 0, ()),
        (100, 10, 1, (50,)),
        (100, 10, 2, (30, 70)),
        (100, 10, 3, (30, 50, 80)),
        (100, 10, 9, (10, 20, 30, 40, 50, 60, 70, 80, 90)),
        (400, 100, 3, (100, 200, 300)),
    ],
)
def test_candidates_are_evenly_spaced(
    num_steps: int, every: int | None, most: int, steps: tuple[int, ...]
) -> None:
    assert candidate_steps(num_steps, every, most) == steps


def test_what_cannot_open_alone_is_not_kept(stages: Any) -> None:
    spec, lora = stages.job("sft").spec, [table.build("lora", {}, "sft.yaml")]
    adds = spec.model_copy(update={"model": {"add_tokens": ["<a>"]}})
    assert has_candidates(spec, [])
    assert has_candidates(spec, lora)
    assert has_candidates(adds, [])
    assert not has_candidates(adds, lora)
    assert not has_candidates(spec, [table.build("osf", {}, "sft.yaml")])


CONSTANT: dict[str, Any] = {"lr_scheduler_type": "constant"}


def job(stages: Any, *, most: int = 3, every: int = 1, **settings: Any) -> Any:
    return replace(stages.job("sft", checkpoint_every=every, **settings), candidates=most)


def test_a_candidate_is_what_a_shorter_stage_would_be(stages: Any, tmp_path: Path) -> None:
    """With a constant rate two of four steps are a stage of two steps."""
    done = stages.train(job(stages, **CONSTANT))
    assert list(kept(done.job.output)) == [1, 2, 3]
    assert done.manifest["checks"]["candidates"] == [1, 2, 3]
    assert not (done.job.output / "trainer").exists()
    short = stages.train(stages.job("sft", max_steps=2, **CONSTANT))
    folder = tmp_path / "two"
    folder.mkdir()
    result = done.job.output / "checkpoint"
    write_candidate(kept(done.job.output)[2], result, "", folder, {})
    assert equal(weights_of(folder), short.weights)
    assert load_model(str(folder)).config.vocab_size
    file = kept(done.job.output)[2] / "model.safetensors"
    assert file.samefile(folder / "model.safetensors")  # no second copy
    remove_candidates(done.job.output)
    assert kept(done.job.output) == {}
    assert equal(weights_of(folder), short.weights)


def test_a_stage_that_no_gate_could_take_back_keeps_none(stages: Any) -> None:
    done = stages.train(job(stages, most=0))
    assert kept(done.job.output) == {}
    assert "candidates" not in done.manifest["checks"]
    assert "candidates" not in {path.name for path in done.job.output.iterdir()}


def test_an_interruption_loses_no_candidate(stages: Any) -> None:
    one = job(stages)
    with pytest.raises(Interrupted):
        stages.train(one, interrupt_at=3)
    assert list(kept(one.partial)) == [1, 2]
    for folder in kept(one.partial).values():  # killed before it was linked
        if folder.name == "step-2":
            for file in folder.iterdir():
                file.unlink()
            folder.rename(folder.with_name("step-2.partial"))
    done = stages.train(one)
    assert list(kept(one.output)) == [1, 2, 3]
    assert not list(one.output.glob("candidates/*.partial"))
    straight = stages.train(job(stages))
    for step, folder in kept(straight.job.output).items():
        assert equal(weights_of(folder), weights_of(kept(one.output)[step])), step
    assert equal(done.weights, straight.weights)


def test_an_adapters_candidate_is_merged_into_what_lies_below(stages: Any, tmp_path: Path) -> None:
    hooks = {"lora": {"rank": 2}}
    done = stages.train(job(stages, hooks=hooks, **CONSTANT))
    short = stages.train(stages.job("sft", hooks, max_steps=2, **CONSTANT))
    start = str(stages.sft.output / "checkpoint")
    write_candidate(kept(done.job.output)[2], done.job.output / "checkpoint", start, tmp_path, {})
    assert equal(weights_of(tmp_path), short.weights)
