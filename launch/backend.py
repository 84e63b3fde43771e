"""The backends a stage can run on: what each gives, what it refuses, and how it is started.

A backend is a file in configs/accelerate; what is wrong with a stage on it is known when planning.
"""

import functools
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt.errors import PlanError
from cpt.settings import did_you_mean
from cpt.yaml12 import load
from launch.refusals import FACTS, REFUSALS, Refusal, facts_of_files

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Backend:
    """One way to spread a stage over processes.

    `gives` is matched against the `needs` of hooks; `sharded` is true for FSDP and DeepSpeed.
    """

    name: str
    sharded: bool = False
    gives: frozenset[str] = frozenset({"logits", "parameters", "gradients", "adapter"})

    @property
    def config_file(self) -> Path:
        """The file for `accelerate launch --config_file`."""
        return ROOT / "configs" / "accelerate" / f"{self.name}.yaml"

    @property
    def deepspeed_file(self) -> Path | None:
        """DeepSpeed's own settings; a relative path in the config file starts at the checkout."""
        name = self._config.get("deepspeed_config", {}).get("deepspeed_config_file")
        return ROOT / name if name else None

    @property
    def num_processes(self) -> int:
        """Processes that the config file asks for."""
        return int(self._config["num_processes"])

    def refusals(self, facts: Collection[str]) -> list[Refusal]:
        """What this backend refuses about a stage for which these `FACTS` hold."""
        assert set(facts) <= FACTS.keys(), f"unknown facts {set(facts) - FACTS.keys()}"
        file = self.deepspeed_file
        deepspeed = json.loads(file.read_text(encoding="utf-8")) if file else {}
        holds = {*facts, *facts_of_files(self._config, deepspeed)}
        return [refusal for refusal in REFUSALS[self.name] if refusal.when <= holds]

    def refusal(self, need: str) -> str:
        """Why a hook's need is not met, and which backends meet it."""
        others = [other.name for other in BACKENDS.values() if need in other.gives]
        instead = f"; use launch: {' or '.join(others)}" if others else ""
        return f"launch: {self.name} does not give {need!r}{instead}"

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        return dict(load(self.config_file))


BACKENDS = {
    "single": Backend("single"),
    "ddp": Backend("ddp"),
    "fsdp2": Backend("fsdp2", sharded=True),
    "zero1": Backend("zero1", sharded=True),
    "zero2": Backend("zero2", sharded=True),
    "zero3": Backend("zero3", sharded=True),
}


def backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        PlanError: there is none.
    """
    if name not in BACKENDS:
        raise PlanError(f"launch: there is no backend {name!r}{did_you_mean(name, BACKENDS)}")
    return BACKENDS[name]


def accelerate_command(
    chosen: Backend, module: str, arguments: Sequence[str], num_processes: int | None = None
) -> list[str]:
    """The command that runs `python -m module *arguments` in every process of a backend.

    One process needs no launcher, which would import torch once more.
    """
    if chosen.name == "single":
        if num_processes not in (None, 1):
            raise PlanError(f"launch: single runs one process, not {num_processes}; use ddp")
        return [sys.executable, "-m", module, *arguments]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(chosen.config_file)]
    if num_processes is not None:
        command += ["--num_processes", str(num_processes)]
    if file := chosen.deepspeed_file:
        command += ["--deepspeed_config_file", str(file)]
    return [*command, "-m", module, *arguments]


def environment(chosen: Backend, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for the processes of a stage, on top of `inherited`."""
    added = {
        "PYTHONSAFEPATH": "1",  # a folder called `eval` where the command runs must not be ours
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if chosen.name == "single":
        visible = inherited.get("CUDA_VISIBLE_DEVICES", "0")
        added["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]
    return added


def assert_topology(accelerator: Any, chosen: Backend, num_processes: int) -> None:
    """Check, right after the trainer was built, that the processes are those that were asked for.

    Several ways to start a stage train on one process, or on processes that never talk, and say
    nothing.

    Raises:
        PlanError: another backend or another number of processes.
    """
    state = accelerator.state
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind == "DEEPSPEED":
        actual = f"zero{state.deepspeed_plugin.zero_stage}"
    elif kind == "FSDP":
        actual = f"fsdp{state.fsdp_plugin.fsdp_version}"
    else:
        actual = "single" if kind == "NO" else "ddp"
    if (actual, accelerator.num_processes) != (chosen.name, num_processes):
        raise PlanError(
            f"launch: {chosen.name} on {num_processes} processes was asked for, but accelerate set "
            f"up {actual} on {accelerator.num_processes}; start it with: accelerate launch "
            f"--config_file configs/accelerate/{chosen.name}.yaml --num_processes {num_processes}"
        )
    if chosen.name == "single" and accelerator.device.type == "cuda":
        import torch

        if torch.cuda.device_count() > 1:
            raise PlanError(
                f"launch: single uses one GPU, but {torch.cuda.device_count()} are visible and "
                "transformers would split each batch over them; set CUDA_VISIBLE_DEVICES=0, or use "
                "launch: ddp"
            )
