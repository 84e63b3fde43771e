"""Told to end by a signal, a chain keeps the step that it is at, exits 4, and continues as if it had not."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.backend import ROOT
from tests.planted import planted

pytestmark = pytest.mark.chain

SMOKE = ROOT / "recipes" / "smoke"
# Every step takes its time, so that a signal falls between two checkpoints.
SLOW = """
from cpt.hooks.trainer import _Hooks
import time
step = _Hooks.training_step
def slow(self, *args, **kwargs):
    time.sleep({seconds} if self.state.global_step >= 2 else 0)
    return step(self, *args, **kwargs)
_Hooks.training_step = slow
"""


def start_training(
    finished: Any, processes: Any, runs: Path, seconds: float, stage: str = "sft", code: str = ""
) -> Any:
    """A chain whose stage is in its third step, behind a checkpoint of the second."""
    order = list(finished.ids)
    finished.copy(runs, until=order[order.index(stage) - 1])
    command = ("run", SMOKE / "chain.yaml", "--until", stage, "--runs", runs)
    running = processes.start(*command, code=code + SLOW.format(seconds=seconds))
    wait_for_step(running.process.is_alive, runs, finished.ids[stage])
    time.sleep(0.2)
    return running


def wait_for_step(is_alive: Any, runs: Path, stage_id: str) -> None:
    trainer = runs / "stages" / f"{stage_id}.partial" / "trainer"
    until = time.monotonic() + 180
    while not list(trainer.glob("checkpoint-2/COMPLETE")):
        assert is_alive()
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_step_is_kept_and_the_same_command_continues(
    finished: Any, processes: Any, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    runs = tmp_path / "runs"
    running = start_training(finished, processes, runs, 0.8, stage)
    os.kill(running.process.pid, number)
    ended = running.wait()
    assert ended.code == 4, ended.output
    assert ended.output.endswith("cpt: pre-empted; the same command continues\n")
    assert "Traceback" not in ended.output
    (kept,) = re.findall(rf"{stage}: told to end: step (\d) is kept", ended.output)
    assert kept == "3"
    again = processes.smoke(runs, "--until", stage)
    assert again.code == 0, again.output
    assert f"{stage}: continuing at step {kept} of" in again.output
    finished.assert_equal(runs, stage)


@pytest.mark.parametrize("how", ["twice", "grace"])
def test_a_step_that_takes_longer_is_given_up(
    finished: Any, processes: Any, tmp_path: Path, how: str
) -> None:
    runs = tmp_path / "runs"
    code = 'import os; os.environ["CPT_GRACE"] = "1"' if how == "grace" else ""
    running = start_training(finished, processes, runs, 60, code=code)
    began = time.monotonic()
    for _ in range(1 if how == "grace" else 2):
        os.kill(running.process.pid, signal.SIGUSR1)
        time.sleep(0.5)
    ended = running.wait(30)
    assert time.monotonic() - began < 20
    assert ended.code == 4, ended.output
    assert ended.output.endswith("cpt: pre-empted; the same command continues\n")
    again = processes.smoke(runs, "--until", "sft")
    assert "sft: continuing at step 2 of 6" in again.output
    finished.assert_equal(runs, "sft")


def test_where_nothing_trains_it_ends_at_once(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    code = "import time, stages.under_way as u; u.open_model = lambda *a: time.sleep(60)"
    running = processes.start(
        "run", SMOKE / "chain.yaml", "--until", "sft", "--runs", runs, code=code
    )
    while "sft: loading" not in running.output:
        assert running.process.is_alive()
        time.sleep(0.05)
    os.kill(running.process.pid, signal.SIGUSR1)
    ended = running.wait(20)
    assert ended.code == 4
    assert ended.output.endswith("cpt: pre-empted; the same command continues\n")


def test_two_processes_keep_one_step(finished: Any, tmp_path: Path) -> None:
    """Only the chain is told; both workers save the same step, and the result is that of a run in one go."""
    code = "before_each_step(lambda self, step: time.sleep(0.8 if step > 2 and rank else 0))"
    variables = planted(tmp_path / "planted", code)
    weights = []
    for is_told in (True, False):
        runs = finished.copy(tmp_path / f"runs-{is_told}", until="base")
        said = run_on_two(finished, runs, variables, is_told)
        if is_told:
            (kept,) = re.findall(r"pretrain: told to end: step (\d) is kept", said)
            assert kept in "345"
            said = run_on_two(finished, runs, dict(os.environ), is_told=False)
            assert f"pretrain: continuing at step {kept} of 6" in said
        stage = runs / "stages" / finished.ids["pretrain"]
        weights.append((stage / "checkpoint" / "model.safetensors").read_bytes())
        assert list((runs / "jobs").iterdir()) == []
    assert weights[0] == weights[1]


def run_on_two(finished: Any, runs: Path, variables: dict[str, str], is_told: bool) -> str:
    command = [sys.executable, "-m", "launch.cli", "run", str(SMOKE / "chain.yaml")]
    command += ["--until", "pretrain", "--launch", "ddp", "num_processes=2", "--runs", str(runs)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**variables, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        if is_told:
            wait_for_step(lambda: process.poll() is None, runs, finished.ids["pretrain"])
            process.send_signal(signal.SIGUSR1)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == (4 if is_told else 0), said
    assert "Traceback" not in said
    return said
