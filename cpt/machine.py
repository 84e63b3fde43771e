"""The machine that this runs on, as a manifest keeps it: what can make the same numbers come out otherwise.

No torch: `cpt reproduce` compares machines before anything heavy loads. No host name: it says nothing about
numbers, and manifests are published.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """System, Python, CPU, cores of this process, bytes of memory, and GPUs with their driver."""
    gpus = _gpus()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [{"name": name, "memory": memory} for name, memory, _ in gpus],
        "driver": gpus[0][2] if gpus else None,
    }


def _cpu() -> str:
    """The model's name; where the system does not tell, the kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[tuple[str, int, str]]:
    """(name, bytes, driver) of every NVIDIA GPU, visible to this process or not."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parsed(done.stdout) if done.returncode == 0 else []


def parsed(text: str) -> list[tuple[str, int, str]]:
    """What `nvidia-smi` says: a line for each GPU, memory in MiB."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            name, memory, driver = parts
            found.append((name, int(memory) * 2**20 if memory.isdigit() else 0, driver))
    return found
