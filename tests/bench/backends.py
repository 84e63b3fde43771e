"""Which hook was really run on which backend, and how far it was from one process.

`make test-backends` has it written: `results/backends.json` has one entry for each stage and backend, and
`results/backends.md` the table of hooks.
"""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "trl", "accelerate", "deepspeed", "peft")
ORDER = ("ddp", "fsdp2", "zero1", "zero2", "zero3")


@dataclass(frozen=True)
class Cell:
    """A stage on a backend, on two processes.

    Attributes:
        stage, kind, hooks: what was run.
        against: what it is compared with.
        weights: the largest difference, relative to the largest weight of its tensor.
        terms: of logged losses and terms, the largest difference by what is allowed: 1 is the limit.
        continued: whether 2 + 2 steps gave the weights of 4, bit for bit; None where it was not interrupted.
    """

    stage: str
    kind: str
    hooks: tuple[str, ...]
    against: str
    weights: float | None
    terms: float | None
    continued: bool | None


def write(backend: str, cells: list[Cell], seconds: float, folder: Path = RESULTS) -> None:
    """Put a backend's cells in place of those of an earlier run, and the table beside them."""
    file = folder / "backends.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"backends": {}}
    found["command"] = "make test-backends"
    found["backends"][backend] = {
        **_about(),
        "processes": 2,
        "device": "cpu",
        "collectives": "gloo",
        "shim": "tests/fsdp_on_cpu.py" if backend == "fsdp2" else None,
        "seconds": round(seconds),
        "cells": [asdict(cell) for cell in cells],
    }
    file.write_text(json.dumps(found, indent=1) + "\n")
    (folder / "backends.md").write_text(table(found))


def _about() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "commit": commit,
        "packages": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: hooks by backends, the largest difference of weights over the stages that list the hook."""
    from cpt.hooks.table import TABLE

    backends = [name for name in ORDER if name in found["backends"]]
    cells = {name: found["backends"][name]["cells"] for name in backends}
    lines = [
        "# Hooks on two CPU processes against one",
        "",
        "`make test-backends` wrote this; `backends.json` has every stage. A number is the largest "
        "difference of any weight from that of one process, relative to the largest weight of its tensor, "
        "over the stages that list the hook (4 steps of plain gradient descent, fp32). On-policy stages are "
        "compared with DDP on two processes, since each process samples its own answers. `again`: 2 + 2 "
        "steps equal 4, bit for bit.",
        "`-`: not run: a plan refuses it.",
        "",
        "| hook | " + " | ".join(backends) + " |",
        "|---|" + "---|" * len(backends),
    ]
    for hook in TABLE:
        row = []
        for name in backends:
            own = [cell for cell in cells[name] if hook in cell["hooks"]]
            far = [cell["weights"] for cell in own if cell["weights"] is not None]
            again = any(cell["continued"] for cell in own)
            row.append(f"{max(far):.1e}{' again' if again else ''}" if far else "-")
        lines.append(f"| {hook} | " + " | ".join(row) + " |")
    stages = {cell["stage"]: cell for name in backends for cell in cells[name]}
    lines += ["", "| stage | hooks | " + " | ".join(backends) + " |"]
    lines.append("|---|---|" + "---|" * len(backends))
    for stage, cell in stages.items():
        row = [_told(stage, cells[name]) for name in backends]
        lines.append(
            f"| {stage} ({cell['kind']}) | {', '.join(cell['hooks'])} | {' | '.join(row)} |"
        )
    lines += ["", "| backend | commit | seconds | packages |", "|---|---|---|---|"]
    for name in backends:
        own = found["backends"][name]
        packages = ", ".join(f"{package} {number}" for package, number in own["packages"].items())
        lines.append(f"| {name} | {own['commit']} | {own['seconds']} | {packages} |")
    return "\n".join(lines) + "\n"


def _told(stage: str, cells: list[dict[str, Any]]) -> str:
    for cell in cells:
        if cell["stage"] == stage:
            if cell["continued"] is not None:
                return "equal to the bit" if cell["continued"] else "differs"
            return f"{cell['weights']:.1e}"
    return "-"
