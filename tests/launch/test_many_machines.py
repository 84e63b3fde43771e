"""Launchers that meet over a port give what one launcher gives: two on this machine stand for two machines.

And what ZeRO keeps in the host's memory gives what it gives without.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.backend import backend, environment
from launch.job_file import job_to_json
from stages.base import Job
from tests.tiny_stages import TinyStages, difference, read

pytestmark = pytest.mark.backends

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("CPT_TEST_SECONDS", "300"))
#: Gradients are summed in another order; 4 steps of plain gradient descent in fp32.
ROUNDING = 2e-6


def run(job: Job, folder: Path, name: str) -> dict[str, Any]:
    """A stage on two processes of a backend, as a person starts it on every machine by hand."""
    chosen = backend(name)
    folder.mkdir()
    file = folder / "jobs.jsonl"
    file.write_text(json.dumps({"job": job_to_json(job), "interrupted": False}) + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines = 2 if chosen.nodes else 1
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(chosen.config_file), "--num_processes", "2"]
    if chosen.deepspeed_file:
        command += ["--deepspeed_config_file", str(chosen.deepspeed_file)]
    command += ["--main_process_port", str(port)]
    commands = [
        [*command, "--machine_rank", str(rank), "-m", "tests.two_processes", str(file)]
        for rank in range(machines)
    ]
    ended = together(commands, folder, environment(chosen))
    said = [output.read_text()[-4000:] for output in sorted(folder.glob("output-*.txt"))]
    assert ended == [0] * machines, "\n".join(said)
    assert "DEEPSPEED" not in " ".join(os.listdir(folder))
    assert sorted(path.name for path in folder.glob("rank-*.json")) == [
        "rank-0.json",
        "rank-1.json",
    ]
    return dict(read(job).weights)


def together(
    commands: Sequence[Sequence[str]], folder: Path, variables: dict[str, str]
) -> list[int | None]:
    """Run launchers at the same time; none outlives this."""
    added = variables | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launchers = []
    for number, command in enumerate(commands):
        with (folder / f"output-{number}.txt").open("wb") as output:
            launchers.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **added},
                    cwd=folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        return [launcher.wait(SECONDS) for launcher in launchers]
    finally:
        for launcher in launchers:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()


@pytest.fixture(scope="module")
def ddp(stages: TinyStages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes of one launcher make of the stage."""
    return run(of(stages, "ddp"), tmp_path_factory.mktemp("ddp") / "run", "ddp")


def of(stages: TinyStages, name: str) -> Job:
    return replace(stages.job("sft", num_processes=2, micro_batch=2), backend=name)


@pytest.mark.parametrize("name", ["ddp-nodes", "zero2-nodes"])
def test_two_launchers_give_the_weights_of_one(
    name: str, stages: TinyStages, ddp: dict[str, Any], tmp_path: Path
) -> None:
    assert difference(run(of(stages, name), tmp_path / "run", name), ddp) < ROUNDING


@pytest.mark.parametrize("name", ["zero1-offload", "zero2-offload", "zero3-offload"])
def test_host_memory_gives_the_same_weights(
    name: str, stages: TinyStages, ddp: dict[str, Any], tmp_path: Path
) -> None:
    if backend(name).unfinished:
        pytest.skip(backend(name).unfinished)
    pytest.importorskip("deepspeed")
    assert difference(run(of(stages, name), tmp_path / "run", name), ddp) < ROUNDING
