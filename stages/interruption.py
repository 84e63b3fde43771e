"""What an interrupted stage leaves behind, and how it continues.

`trainer/checkpoint-N` while it trains, `trained/` before the merge, `checkpoint/` before publishing.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.errors import StoreError
from cpt.hooks.stack import HookStack
from cpt.store import complete_checkpoints, replacing
from cpt.world import World
from stages.base import Job

#: What only an interrupted stage needs.
LEFTOVERS = (
    "trainer",
    "trained",
    "job.json",
    "topology.json",
    "checks.json",
    "start.json",
    "log.json",
)


def check_topology(partial: Path, job: Job, world: World) -> None:
    """An interrupted stage continues on as many processes as it began with."""
    file = partial / "topology.json"
    own = {"backend": job.backend, "size": world.size}
    if file.is_file() and complete_checkpoints(partial / "trainer"):
        began = json.loads(file.read_text())
        if began != own:
            raise StoreError(
                f"{partial.name}: began on {began['backend']} with {began['size']} processes and would "
                f"continue on {job.backend} with {world.size}; use the same, or --restart to begin anew"
            )
    ids.atomic_write(file, json.dumps(own))


def newest_checkpoint(partial: Path, world: World) -> str | None:
    """The newest complete trainer checkpoint; those without our mark are removed."""
    if world.is_main:
        complete = {folder for _, folder in complete_checkpoints(partial / "trainer")}
        for folder in (partial / "trainer").glob("checkpoint-*"):
            if folder not in complete:
                shutil.rmtree(folder)
    world.barrier()
    found = complete_checkpoints(partial / "trainer")
    return str(found[-1][1]) if found else None


def save_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    """Keep weights and hook state between the last step and the merge."""
    from safetensors.torch import save_file, save_model

    with replacing(folder) as partial:
        save_model(model, str(partial / "model.safetensors"))
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in hooks.state_dict().items()},
            str(partial / "hooks.safetensors"),
        )


def load_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    """The inverse of `save_trained`.

    Raises:
        StoreError: the weights are of another model.
    """
    from safetensors.torch import load_file, load_model

    missing, unexpected = load_model(model, str(folder / "model.safetensors"), strict=False)
    odd = [name for name in (*missing, *unexpected) if ".ref." not in name]
    if odd:
        raise StoreError(
            f"{folder}: does not fit the stage's model ({odd[0]}); remove it, and the stage trains again"
        )
    hooks.load_state_dict(load_file(str(folder / "hooks.safetensors")))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(partial: Path) -> None:
    """Remove what a finished stage does not need."""
    for leftover in LEFTOVERS:
        _remove(partial / leftover)
