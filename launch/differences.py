"""What is different here from where a stage was made: packages, code, machine and environment."""

import functools
import re
from collections.abc import Mapping
from typing import Any

from cpt import manifest
from cpt.machine import machine
from cpt.manifest import Manifest
from stages.provenance import code, environment, packages

#: Of these a stage's numbers do not depend, or they are told in another way.
_IGNORED = ("CPT_RUNS", "CPT_CACHE", "SLURM_JOB_ID")
#: What `cpt run` sets for one process, and what accelerate and torchrun set for several.
_BY_RUNNER = re.compile(r"CUDA_VISIBLE_DEVICES|TOKENIZERS_PARALLELISM")
_BY_LAUNCHER = re.compile(
    r"OMP_NUM_THREADS|WORLD_SIZE|LOCAL_WORLD_SIZE|ACCELERATE_\w+|TORCH_NCCL_\w+|NCCL_ASYNC_\w+"
)
_MOST = 12  # packages that are named one by one


@functools.cache
def installed() -> dict[str, str]:
    """Package -> version; reading a few hundred of them takes a tenth of a second."""
    return packages()


def differences(entry: Manifest) -> list[str]:
    """A sentence for everything of packages, code, machine and environment that is not as it was."""
    found = []
    if entry.code.get("commit"):
        now = code()
        if now.get("commit") != entry.code["commit"]:
            commit = str(now.get("commit"))[:12] if now.get("commit") else "no git checkout"
            found.append(f"code: made with {entry.code['commit'][:12]}, here is {commit}")
        if entry.code.get("dirty") and now.get("diff") != entry.code.get("diff"):
            found.append("code: made with changes that were not committed, and they are not these")
        elif now.get("dirty") and not entry.code.get("dirty"):
            found.append("code: here are changes that are not committed")
    here = installed()
    other = {n: (v, here.get(n)) for n, v in entry.packages.items() if here.get(n) != v}
    for name, (then, now_version) in list(other.items())[:_MOST]:
        found.append(f"package {name}: made with {then}, here is {now_version or 'none'}")
    if len(other) > _MOST:
        found.append(f"packages: {len(other) - _MOST} more are of other versions")
    trees: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "machine": (entry.machine, machine()),
        "environment": (entry.environment, environment()),
    }
    launched = entry.how.get("launch", "single") != "single"
    for part, (before, here_now) in trees.items():
        for path, left, right in manifest.differences(before, here_now) if before else ():
            if part == "environment" and _is_set_anew(path, right, launched):
                continue
            found.append(f"{part} {path}: made with {_brief(left)}, here is {_brief(right)}")
    return found


def _is_set_anew(variable: str, here: Any, launched: bool) -> bool:
    """Whether a variable decides nothing, or has the value again once the stage runs."""
    if variable in _IGNORED:
        return True
    return here is None and bool(
        _BY_RUNNER.fullmatch(variable) or (launched and _BY_LAUNCHER.fullmatch(variable))
    )


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)[:80]
