"""Where a stage comes from, besides its inputs: recipe and command, code, packages, machine, environment."""

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cpt.ids import sha256_file
from cpt.machine import machine
from cpt.redact import redact, redact_tree

#: What of the environment can change numbers or how processes talk; all else stays out of manifests.
KEPT = re.compile(
    r"CUDA_\w+|CUBLAS_\w+|NCCL_\w+|GLOO_\w+|OMP_\w+|MKL_\w+|KMP_\w+|PYTORCH_\w+|TORCH_\w+|TORCHINDUCTOR_\w+|"
    r"ATEN_CPU_CAPABILITY|HF_HUB_OFFLINE|TOKENIZERS_PARALLELISM|PYTHONHASHSEED|PYTHONOPTIMIZE|"
    r"SLURM_(JOB_ID|NNODES|NTASKS)|WORLD_SIZE|LOCAL_WORLD_SIZE|ACCELERATE_\w+|CPT_\w+"
)
#: Modules that nobody added to git yet; without quotes and escapes around odd names.
_ADDED = ("-c", "core.quotePath=off", "ls-files", "--others", "--exclude-standard", "--", "*.py")
#: Fields of a manifest that `provenance` fills.
FIELDS = ("packages", "code", "how", "machine", "environment", "load")


def provenance(how: Mapping[str, Any], load: Mapping[str, Any]) -> dict[str, Any]:
    """The `FIELDS` of a manifest for what is made here and now.

    Args:
        how: recipe, command, launch and number of processes, as `launch.record.how` gives them.
        load: dtype, attention and trust_remote_code of every model that was loaded.
    """
    return {
        "packages": packages(),
        "code": code(),
        "how": redact_tree(how),
        "machine": machine(),
        "environment": environment(),
        "load": {"trust_remote_code": False, **load},
    }


def packages() -> dict[str, str]:
    """Every installed package and its version: any of them can be what made the difference."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:  # none: a folder that was half removed
            found.setdefault(str(name), distribution.version)
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that `KEPT` names."""
    return {
        name: redact(variables[name], variables)
        for name in sorted(variables)
        if KEPT.fullmatch(name)
    }


def code() -> dict[str, Any]:
    """Commit of this code, where it is a git checkout, and the hash of what differs from it."""
    commit = _git("rev-parse", "HEAD")
    # Installed in an environment that lies in somebody's own repository, it is no part of that.
    if not commit or _git("ls-files", "--error-unmatch", "--", _own()) is None:
        return {}
    changed, added = _git("diff", "HEAD"), _git(*_ADDED)
    if changed is None or added is None:  # no answer in time: nothing is claimed
        return {"commit": commit, "dirty": None}
    for name in added.splitlines():  # not in git's diff, and imported all the same
        changed += f"\n{name} {sha256_file(_folder() / name)}"
    found: dict[str, Any] = {"commit": commit, "dirty": bool(changed)}
    if changed:
        found["diff"] = hashlib.sha256(changed.encode(errors="surrogateescape")).hexdigest()
    return found


def _own() -> str:
    return str(Path(__file__).resolve())


def _folder() -> Path:
    return Path(__file__).resolve().parent.parent


def _git(*arguments: str) -> str | None:
    folder = _folder()
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
