"""Told to end, a stage keeps the very step that it is at, or the next one that it can continue from."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cpt.store import complete_checkpoints
from cpt.world import World
from stages.base import Job
from stages.run import run
from stages.stopping import PREEMPTED, REQUEST, Request, Stopping
from tests.tiny_stages import TinyStages, equal, read

pytestmark = pytest.mark.chain


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    yield
    REQUEST.is_made = REQUEST.is_heeded = False


def told_at(step: int, job: Job) -> list[str]:
    """Train until this stage, told at the end of a step, leaves. Returns: what it said."""
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if f": step {step}/" in sentence:
            assert REQUEST.is_heeded
            assert REQUEST.take()

    with pytest.raises(SystemExit) as left:
        run(job, say)
    assert left.value.code == PREEMPTED
    assert not REQUEST.is_heeded
    REQUEST.is_made = False
    return said


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_it_keeps_this_step_and_ends_the_same(
    step: int, every: int | None, stages: TinyStages
) -> None:
    job = stages.job("sft", {"kl": {}, "ema": {}}, checkpoint_every=every)
    said = told_at(step, job)
    assert said[-1] == f"sft: told to end: step {step} is kept"
    assert complete_checkpoints(job.partial / "trainer")[-1][0] == step
    continued: list[str] = []
    run(job, continued.append)
    assert f"sft: continuing at step {step} of 4" in continued
    plain = stages.train(stages.job("sft", {"kl": {}, "ema": {}}))
    assert equal(read(job).weights, plain.weights)
    assert [row["step"] for row in read(job).log] == [row["step"] for row in plain.log]


def test_a_stage_that_samples_goes_on_to_the_end_of_its_rollout(stages: TinyStages) -> None:
    job = stages.job("grpo", generation_batch_size=16)  # two steps
    said = told_at(1, job)
    assert said[-1] == "grpo: told to end: step 2 is kept"
    run(job, lambda line: None)
    plain = stages.train(stages.job("grpo", generation_batch_size=16))
    assert equal(read(job).weights, plain.weights)


def test_a_longer_log_gets_one_line_more(stages: TinyStages) -> None:
    """A trainer forgets at a checkpoint what it has summed for its log, so that it logs there."""
    job = stages.job("sft", logging_steps=4)
    told_at(3, job)
    run(job, lambda line: None)
    rows = [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [3, 4]


class TestRequest:
    def test_outside_of_training_nobody_waits(self) -> None:
        request = Request()
        assert not request.take()
        assert not request.is_made

    def test_the_second_time_ends_at_once(self) -> None:
        request = Request(is_heeded=True)
        assert request.take()
        assert not request.take()
        assert request.is_made

    @pytest.mark.parametrize("is_there", [True, False])
    def test_workers_are_told_where_there_are_any(self, is_there: bool) -> None:
        request = Request(pass_on=lambda: is_there)
        assert request.take() is request.is_made is is_there


class TestStopping:
    def judged(self, num_told: float, step: int, boundary: int = 1) -> Any:
        from transformers import TrainerControl, TrainerState

        said: list[str] = []
        say: Callable[[str], None] = said.append
        stopping, control = Stopping(boundary, World(), say), TrainerControl()
        stopping.judge(num_told, TrainerState(global_step=step, max_steps=6), control)
        return stopping, control

    def test_another_process_was_told(self) -> None:
        stopping, control = self.judged(1.0, 3)
        assert control.should_save
        assert control.should_log
        assert REQUEST.is_made  # here too, should the training end in another way
        with pytest.raises(SystemExit):
            stopping.leave(3)

    def test_nobody_was_told(self) -> None:
        stopping, control = self.judged(0.0, 3)
        assert not control.should_save
        stopping.leave(3)  # a checkpoint like any other

    @pytest.mark.parametrize(("step", "saves"), [(3, False), (4, True), (6, True)])
    def test_between_two_boundaries_it_goes_on(self, step: int, saves: bool) -> None:
        assert self.judged(2.0, step, boundary=4)[1].should_save is saves
