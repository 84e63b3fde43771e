"""Whether the processes of a stage are those that its backend's files ask for.

Several ways to start a stage train on one process, or on processes that never talk, and say nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpt.errors import PlanError
from launch.backend import Backend


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
        offloads = offloaded(chosen.deepspeed)
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
        offloads = offloaded(settings)
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


def offloaded(settings: Mapping[str, Any]) -> frozenset[str]:
    """What DeepSpeed's own settings keep in the host's memory."""
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
