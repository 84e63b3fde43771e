"""What a launcher has started, by the variables that it left: how many processes, on which backend.

Several ways to start a stage train on one process, or on processes that never talk, and say nothing.

Source: accelerate 1.15, `utils/launch.py`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from cpt.errors import PlanError

_INSTEAD = (
    "start it with: accelerate launch --config_file configs/accelerate/{}.yaml --num_processes N"
)


def num_started(variables: Mapping[str, str] = os.environ) -> int:
    """Processes that were started together.

    Raises:
        PlanError: accelerate was asked for several and has started one.
    """
    if "WORLD_SIZE" in variables:
        return int(variables["WORLD_SIZE"])
    # Only accelerate's launcher of one process sets the first, and only where it was asked for more, or for
    # more machines, the second: with --cpu, MULTI_CPU in its file, or no file on a machine without GPUs.
    if "ACCELERATE_USE_CPU" in variables and "MASTER_ADDR" in variables:
        raise PlanError(
            "launch: accelerate launch started one process and was asked for several: it does so with --cpu, "
            "with distributed_type: MULTI_CPU, and without a config file where it finds no GPU; "
            f"{_INSTEAD.format('ddp')} (on a CPU, too), or one process with python -m launch.stage; "
            "if one was asked for, unset MASTER_ADDR"
        )
    return 1


def backend_started(size: int, variables: Mapping[str, str] = os.environ) -> str:
    """The backend that `accelerate launch` was given.

    Raises:
        PlanError: it is none of ours.
    """
    if variables.get("ACCELERATE_USE_DEEPSPEED") == "true":
        stage = _zero_stage(variables)
        if stage not in (1, 2, 3):
            raise PlanError(
                f"launch: the DeepSpeed file has zero_optimization.stage {stage}; {_INSTEAD.format('zero2')}"
            )
        return f"zero{stage}"
    if variables.get("ACCELERATE_USE_FSDP") == "true":
        version = variables.get("FSDP_VERSION", "1")
        if version != "2":
            raise PlanError(
                f"launch: fsdp_version is {version}, and FSDP1 was not tested; {_INSTEAD.format('fsdp2')}"
            )
        return "fsdp2"
    return "single" if size == 1 else "ddp"


def _zero_stage(variables: Mapping[str, str]) -> int:
    """Of DeepSpeed's own file, where there is one: accelerate then names no stage."""
    file = variables.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file != "none" and Path(file).is_file():
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return int(found.get("zero_optimization", {}).get("stage", 0))
    return int(variables.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
