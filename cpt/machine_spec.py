"""The machine that a chain is planned for: its memory, disk and speed; torch is not asked.

Bytes and rates of a declared machine are its maker's (configs/machines); of this one, what the kernel and
NVIDIA's driver say.
"""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from cpt.errors import RecipeError
from cpt.settings import Settings, did_you_mean, validate
from cpt.yaml12 import load

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "machines"
HERE = "this machine"
# Device files of NVIDIA's and AMD's drivers.
ACCELERATORS = ("/dev/nvidia0", "/dev/kfd")
# 32-bit operations of a core and cycle: two units of fused multiply-adds, as wide as the flag says.
_PER_CYCLE = {"avx512f": 64, "avx2": 32, "avx": 16}
# Bytes a second that two or more cores read from memory, where nothing says it.
_CPU_BANDWIDTH = 20e9


class Machine(Settings):
    """One machine; 0 is what is not known. GB are 10^9 bytes.

    A machine without `gpus` computes on its CPU, whose operations are 32-bit ones.
    """

    gpu: str = Field(default="", description="as nvidia-smi calls it, or the beginning of that")
    gpus: int = Field(default=0, ge=0, description="GPUs of one machine")
    gpu_memory_gb: float = Field(default=0.0, ge=0, description="of each GPU")
    host_memory_gb: float = Field(default=0.0, ge=0, description="of the machine")
    tflops: float = Field(
        default=0.0, ge=0, description="dense 16-bit peak of a GPU, 10^12 a second"
    )
    bandwidth_gbs: float = Field(
        default=0.0, ge=0, description="of a GPU's memory, 10^9 bytes a second"
    )
    disk_gb: float = Field(default=0.0, ge=0, description="free for the runs folder")
    name: str = Field(default=HERE, description="in messages")

    @property
    def on_cpu(self) -> bool:
        """Whether it has no accelerator to train on."""
        return self.gpus == 0


def declared(name: str) -> Machine:
    """A machine of configs/machines, or of a YAML file.

    Raises:
        RecipeError: there is none, or it is wrong.
    """
    path = Path(name) if Path(name).suffix == ".yaml" else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
        raise RecipeError(
            f"--machine {name}: no such file in configs/machines{did_you_mean(name, known)}"
        )
    found: Machine = validate(Machine, load(path), str(path))
    return found.model_copy(update={"name": path.stem})


def this_machine(runs: Path) -> Machine:
    """What is here: GPUs by nvidia-smi, memory by /proc, disk by the file system of the runs folder."""
    found = {"host_memory_gb": _memory() / 1e9, "disk_gb": _free(runs) / 1e9}
    if Path(ACCELERATORS[0]).exists():
        return Machine(**found, **_gpus())
    if Path(ACCELERATORS[1]).exists():  # how much memory it has, nothing light says
        return Machine(**found, gpu="an AMD GPU", gpus=1)
    return Machine(**found, tflops=_cpu_peak() / 1e12, bandwidth_gbs=_CPU_BANDWIDTH / 1e9)


@cache
def _gpus() -> dict[str, Any]:
    """GPUs of this machine; speeds are those of the declared machine with the same GPU."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        rows = [line.rpartition(",") for line in said.strip().splitlines()]
        name, _, mebibytes = rows[0]
        memory = float(mebibytes) * 2**20 / 1e9
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {"gpu": "a GPU", "gpus": 1}
    alike = [declared(file.stem) for file in sorted(FOLDER.glob("*.yaml"))]
    alike = [each for each in alike if each.gpu and name.strip().startswith(each.gpu)]
    speeds = max(alike, key=lambda each: len(each.gpu), default=Machine())
    return {
        "gpu": name.strip(),
        "gpus": len(rows),
        "gpu_memory_gb": memory,
        "tflops": speeds.tflops,
        "bandwidth_gbs": speeds.bandwidth_gbs,
    }


def _memory() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 0.0


def _free(folder: Path) -> float:
    """Bytes that are free where a folder is or will be."""
    there = next(
        place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()
    )
    try:
        told = os.statvfs(there)
    except OSError:
        return 0.0
    return float(told.f_bavail * told.f_frsize)


def _cpu_peak() -> float:
    """32-bit operations a second of the cores that this process may use: cores x cycles x width."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):
        return 0.0
    told = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    flags = told.get("flags", "").split()
    width = next((width for flag, width in _PER_CYCLE.items() if flag in flags), 0)
    return cores * float(told.get("cpu MHz", 0)) * 1e6 * width
