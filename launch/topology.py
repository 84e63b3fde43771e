"""Whether the processes of a stage are those that its backend's files ask for.

Several ways to start a stage train on one process, or on processes that never talk, and say nothing.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt.errors import PlanError
from launch.backend import BACKENDS, Backend


@dataclass(frozen=True)
class Topology:
    """What accelerate set up, or what a backend's files ask for.

    Attributes:
        base: of the backend.
        num_processes, num_machines: how many there are.
        offloads: what lies in the host's memory, of weights and optimizer states.
    """

    base: str
    num_processes: int
    num_machines: int = 1
    offloads: frozenset[str] = frozenset()

    def __str__(self) -> str:
        machines = f" on {self.num_machines} machines" if self.num_machines > 1 else ""
        kept = f", {' and '.join(sorted(self.offloads))} in host memory" if self.offloads else ""
        return f"{self.base} on {self.num_processes} processes{machines}{kept}"


def asked_for(chosen: Backend, num_processes: int) -> Topology:
    """What a backend's files ask for."""
    if chosen.deepspeed_file:
        offloads = _of_deepspeed(chosen.deepspeed)
    else:
        offloads = _WHOLE if chosen.offloads else frozenset()
    return Topology(chosen.base, num_processes, chosen.num_machines, offloads)


def set_up(accelerator: Any, variables: Mapping[str, str] = os.environ) -> Topology:
    """What accelerate really set up: DeepSpeed's own settings are asked, not what the launcher was told."""
    state = accelerator.state
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    offloads: frozenset[str] = frozenset()
    if kind == "DEEPSPEED":
        settings = state.deepspeed_plugin.hf_ds_config.config
        base = f"zero{settings.get('zero_optimization', {}).get('stage', 0)}"
        offloads = _of_deepspeed(settings)
    elif kind == "FSDP":
        base = f"fsdp{state.fsdp_plugin.fsdp_version}"
        if type(state.fsdp_plugin.cpu_offload).__name__ == "CPUOffloadPolicy":
            offloads = _WHOLE
    else:
        base = "single" if kind == "NO" else "ddp"
    # torchrun calls the launchers of a run, one a machine, its groups.
    machines = int(variables.get("GROUP_WORLD_SIZE", "1"))
    return Topology(base, accelerator.num_processes, machines, offloads)


_WHOLE = frozenset({"weights", "optimizer"})


def _of_deepspeed(settings: Mapping[str, Any]) -> frozenset[str]:
    zero = settings.get("zero_optimization", {})
    keys = {"weights": "offload_param", "optimizer": "offload_optimizer"}
    devices = {what: (zero.get(key) or {}).get("device") or "none" for what, key in keys.items()}
    return frozenset(what for what, device in devices.items() if str(device) != "none")


def assert_topology(accelerator: Any, chosen: Backend, num_processes: int) -> None:
    """Check, right after the trainer was built, that the processes are those that were asked for.

    Raises:
        PlanError: another backend, another number of processes or machines, or other things in host memory.
    """
    asked, actual = asked_for(chosen, num_processes), set_up(accelerator)
    if actual != asked:
        raise PlanError(
            f"launch: {asked} was asked for ({chosen.name}), but accelerate set up {actual}; start it with: "
            f"accelerate launch --config_file configs/accelerate/{chosen.name}.yaml --num_processes "
            f"{num_processes}"
        )
    if chosen.name == "single" and accelerator.device.type == "cuda":
        import torch

        if torch.cuda.device_count() > 1:
            raise PlanError(
                f"launch: single uses one GPU, but {torch.cuda.device_count()} are visible and "
                "transformers would split each batch over them; set CUDA_VISIBLE_DEVICES=0, or use "
                "launch: ddp"
            )


def launched(size: int, variables: Mapping[str, str] = os.environ) -> str:
    """Which backend `accelerate launch` was given, from what it tells its processes.

    Raises:
        PlanError: its files are none of ours.
    """
    if variables.get("ACCELERATE_USE_DEEPSPEED") == "true":
        stage, offloads = int(variables.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")), False
        file = variables.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        if file != "none":
            settings = json.loads(Path(file).read_text(encoding="utf-8"))
            stage = int(settings.get("zero_optimization", {}).get("stage", 0))
            offloads = bool(_of_deepspeed(settings))
        base = f"zero{stage}"
    elif variables.get("ACCELERATE_USE_FSDP") == "true":
        base, offloads = "fsdp2", variables.get("FSDP_OFFLOAD_PARAMS") == "true"
    else:
        base, offloads = ("single" if size == 1 else "ddp"), False
    nodes = int(variables.get("GROUP_WORLD_SIZE", "1")) > 1
    name = base + "-offload" * offloads + "-nodes" * nodes
    if name not in BACKENDS:
        raise PlanError(
            f"launch: accelerate was given a file for {name}, which is none of {', '.join(BACKENDS)}"
        )
    return name
