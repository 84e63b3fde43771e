"""Several machines: what slurm starts on each, and what is refused before it does."""

import socket
import sys
from typing import Any

import pytest

from cpt.errors import PlanError
from launch import nodes
from launch.backend import accelerate_command, backend
from launch.checks import num_processes


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")


@pytest.mark.usefixtures("job")
def test_one_launcher_on_every_machine_of_the_job() -> None:
    chosen = backend("zero2-nodes")
    command = accelerate_command(chosen, "launch.stage", ["--job", "x.json"], num_processes=32)
    assert command[:4] == ["srun", "--nodes=4", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    assert command[4:7] == [sys.executable, "-m", "launch.nodes"]

    def said(option: str) -> str:
        return command[command.index(option) + 1]

    assert said("--num_machines") == "4"
    assert said("--main_process_ip") == socket.gethostname()
    assert said("--main_process_port") == str(20000 + 3456)
    assert said("--num_processes") == "32"
    assert said("--config_file").endswith("zero2-nodes.yaml")
    assert said("--deepspeed_config_file").endswith("zero2.json")
    assert command[-4:] == ["-m", "launch.stage", "--job", "x.json"]


def test_every_machine_adds_which_one_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[Any] = []
    monkeypatch.setattr(nodes.os, "execv", lambda *command: became.append(command))
    monkeypatch.setenv("SLURM_NODEID", "3")
    nodes.main(["--num_machines", "4", "-m", "launch.stage"])
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--machine_rank", "3"]
    assert became == [(sys.executable, [*launcher, "--num_machines", "4", "-m", "launch.stage"])]
    monkeypatch.delenv("SLURM_NODEID")
    with pytest.raises(PlanError, match="it is started by srun"):
        nodes.main([])


def test_outside_of_slurm_a_person_is_told_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    with pytest.raises(PlanError, match="this is no slurm job") as failed:
        accelerate_command(backend("ddp-nodes"), "launch.stage", ["--job", "x"], num_processes=4)
    words = "--num_machines 2 --machine_rank <0 on the first> --main_process_ip <the first> --config_file"
    assert words in str(failed.value)
    assert "ddp-nodes.yaml --num_processes 4 -m launch.stage <stage.yaml>" in str(failed.value)


def test_processes_that_machines_do_not_share_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = backend("ddp-nodes")
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    assert num_processes(chosen, None) == 16
    with pytest.raises(PlanError, match="num_processes: 7 does not split over 2 machines; 6 or 8"):
        num_processes(chosen, 7)
    with pytest.raises(PlanError, match="num_processes: 1 does not split over 2 machines; 2 does"):
        num_processes(chosen, 1)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    with pytest.raises(PlanError, match="and the job has 1; use launch: ddp"):
        num_processes(chosen, None)
