"""Ways to start a stage by hand that would train on one process, or on processes that never talk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt.errors import PlanError
from launch.backend import BACKENDS, ROOT
from launch.started import backend_started, num_started

SIMPLE = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}
SEVERAL = {**SIMPLE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        ({}, 1),
        ({"MASTER_ADDR": "node1"}, 1),  # of a SLURM script, say
        (SIMPLE, 1),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "node1"}, 4),
        ({**SEVERAL, "WORLD_SIZE": "2"}, 2),
    ],
)
def test_what_was_started_is_counted(variables: dict[str, str], size: int) -> None:
    assert num_started(variables) == size


def test_one_process_where_several_were_asked_for_is_refused() -> None:
    with pytest.raises(
        PlanError, match=r"started one process .* --config_file configs/accelerate/ddp"
    ):
        num_started(SEVERAL)


@pytest.mark.parametrize(
    ("variables", "size", "name"),
    [
        ({}, 1, "single"),
        ({}, 2, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, 2, "fsdp2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, 2, "zero1"),
    ],
)
def test_the_backend_is_the_launchers(variables: dict[str, str], size: int, name: str) -> None:
    assert backend_started(size, variables) == name


@pytest.mark.parametrize("name", [name for name in BACKENDS if name.startswith("zero")])
def test_deepspeeds_own_file_says_which_stage(name: str) -> None:
    """accelerate names none beside a file, and would have been taken for ZeRO-2."""
    file = BACKENDS[name].deepspeed_file
    variables = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file),
        "GROUP_WORLD_SIZE": "2" if BACKENDS[name].nodes else "1",
    }
    assert backend_started(2, variables) == name


def test_backends_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"fsdp_version is 1, and FSDP1 was not tested; start it"):
        backend_started(2, {"ACCELERATE_USE_FSDP": "true"})
    (tmp_path / "zero0.json").write_text(json.dumps({"zero_optimization": {"stage": 0}}))
    variables = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "zero0.json"),
    }
    with pytest.raises(PlanError, match=r"zero_optimization\.stage 0; start it"):
        backend_started(2, variables)


MULTI_CPU = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_CPU",
    "num_machines": 1,
    "num_processes": 2,
    "mixed_precision": "no",
    "use_cpu": True,
}


@pytest.mark.chain
@pytest.mark.parametrize("mistake", ["--cpu", "MULTI_CPU", "fsdp2"])
def test_launches_that_would_train_otherwise_than_they_say(
    mistake: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Really started: each ends with an error before its first step."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    stage = {"kind": "sft", "data": str(tmp_path / "rows.jsonl"), "train": {"batch_size": 2}}
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(stage))
    (tmp_path / "multi_cpu.yaml").write_text(yaml.safe_dump(MULTI_CPU))
    given: dict[str, list[Any]] = {
        "--cpu": ["--cpu", "--num_processes", "2"],
        "MULTI_CPU": ["--config_file", tmp_path / "multi_cpu.yaml"],
        # On a CPU accelerate promotes nothing to FSDP.
        "fsdp2": ["--config_file", BACKENDS["fsdp2"].config_file, "--num_processes", "2"],
    }
    words = "started one process"
    if mistake == "fsdp2":
        words = "launch: fsdp2 on 2 processes was asked for (fsdp2), but accelerate set up"
    arguments = [tmp_path / "stage.yaml", f"parent={tiny_folder}"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *given[mistake]]
    command += ["-m", "launch.stage", *arguments, f"output={tmp_path / 'output'}"]
    unset = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "ACCELERATE_USE_CPU")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode != 0
    assert words in ended.stdout + ended.stderr
    assert not (tmp_path / "output").exists()
