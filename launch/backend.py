"""The backends a stage can run on: what each gives, what it refuses, and how it is started.

A backend is a file in configs/accelerate; what is wrong with a stage on it is known when planning.
"""

import functools
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpt.errors import PlanError
from cpt.settings import did_you_mean
from cpt.sharding import sharding
from cpt.yaml12 import load
from launch.nodes import num_machines, over_machines
from launch.ran import Ran, ran
from launch.refusals import FACTS, REFUSALS, Refusal, facts_of_files

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Backend:
    """One way to spread a stage over processes.

    `gives` is matched against the `needs` of hooks; `sharded` is true for FSDP and DeepSpeed;
    `unfinished` says why stages do not run on it yet.
    """

    name: str
    sharded: bool = False
    gives: frozenset[str] = frozenset({"logits", "parameters", "gradients", "adapter"})
    unfinished: str = ""

    @property
    def base(self) -> str:
        """What it spreads and by what, such as zero2 of zero2-offload."""
        return sharding(self.name).base

    @property
    def offloads(self) -> bool:
        """Whether what it spreads lies in the host's memory."""
        return sharding(self.name).offloads

    @property
    def nodes(self) -> bool:
        """Whether its processes are on several machines."""
        return sharding(self.name).nodes

    @property
    def ran(self) -> Ran:
        """What of it was really run."""
        return ran(self.name)

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

    @property
    def num_machines(self) -> int:
        """Machines that its processes are on."""
        return num_machines(int(self._config["num_machines"])) if self.nodes else 1

    @functools.cached_property
    def deepspeed(self) -> dict[str, Any]:
        """DeepSpeed's own settings; empty without it."""
        file = self.deepspeed_file
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file else {}

    def refusals(self, facts: Collection[str]) -> list[Refusal]:
        """What this backend refuses about a stage for which these `FACTS` hold."""
        assert set(facts) <= FACTS.keys(), f"unknown facts {set(facts) - FACTS.keys()}"
        holds = {*facts, *facts_of_files(self._config, self.deepspeed)}
        return [refusal for refusal in REFUSALS[self.base] if refusal.when <= holds]

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        return dict(load(self.config_file))


# ZeRO-1 and 2 shard optimizer and gradients only: every process holds whole weights.
_WHOLE_WEIGHTS = frozenset({"logits", "adapter"})
_SHARDED_WEIGHTS = "stages cannot yet save, merge and probe weights that are sharded"
BACKENDS = {
    "single": Backend("single"),
    "ddp": Backend("ddp"),
    "fsdp2": Backend("fsdp2", sharded=True, gives=frozenset(), unfinished=_SHARDED_WEIGHTS),
    "zero1": Backend("zero1", sharded=True, gives=_WHOLE_WEIGHTS),
    "zero2": Backend("zero2", sharded=True, gives=_WHOLE_WEIGHTS),
    "zero3": Backend("zero3", sharded=True, gives=frozenset(), unfinished=_SHARDED_WEIGHTS),
}

# The same, kept in the host's memory or on several machines: other files, which may be refused for other
# reasons; what hooks are given is the same.
_TRAITS = {
    "offload": ("fsdp2", "zero1", "zero2", "zero3"),
    "nodes": ("ddp", "fsdp2", "zero1", "zero2", "zero3"),
}
for _trait, _bases in _TRAITS.items():
    for _base in _bases:
        BACKENDS[f"{_base}-{_trait}"] = replace(BACKENDS[_base], name=f"{_base}-{_trait}")


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
    launcher = ["--config_file", str(chosen.config_file)]
    if num_processes is not None:
        launcher += ["--num_processes", str(num_processes)]
    if file := chosen.deepspeed_file:
        launcher += ["--deepspeed_config_file", str(file)]
    work = ["-m", module, *arguments]
    if chosen.nodes:
        return over_machines(launcher, work, chosen.num_machines)
    return [sys.executable, "-m", "accelerate.commands.launch", *launcher, *work]


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
