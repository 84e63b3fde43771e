"""What an interrupted stage leaves behind, and how it continues.

`trainer/checkpoint-N` while it trains, `trained/` before the merge, `checkpoint/` before publishing.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from cpt import ids, manifest
from cpt.errors import StoreError
from cpt.hooks.stack import HookStack
from cpt.store import complete_checkpoints, replacing
from cpt.world import World
from stages.base import Job

#: What only an interrupted stage needs.
LEFTOVERS = (
    "data",
    "data.json",
    "trainer",
    "trained",
    "job.json",
    "topology.json",
    "checks.json",
)


def check_topology(partial: Path, job: Job, world: World) -> None:
    """An interrupted stage continues as the stage and on as many processes as it began with.

    Raises:
        StoreError: it is another stage (by hand, where folders are not named by content), or the topology is.
    """
    file = partial / "topology.json"
    own = {"id": job.id, "backend": job.backend, "size": world.size}
    began = own
    if (partial / "manifest.json").is_file():
        began = {**own, "id": manifest.read(partial).id}
    elif file.is_file() and _has_trained(partial):
        began = {**own, **json.loads(file.read_text())}
    if began["id"] != job.id:
        raise StoreError(
            f"{partial}: is what {began['id']} left when it was interrupted, and this stage is "
            f"{job.id}; remove it, or name another output"
        )
    if began != own:
        raise StoreError(
            f"{partial.name}: began on {began['backend']} with {began['size']} processes and would "
            f"continue on {job.backend} with {world.size}; use the same, or --restart to begin anew"
        )
    ids.atomic_write(file, json.dumps(own))


def _has_trained(partial: Path) -> bool:
    parts = (partial / "trained", partial / "checkpoint")
    return bool(complete_checkpoints(partial / "trainer")) or any(part.is_dir() for part in parts)


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


def continue_counts(trainer: Any, resume: Path) -> None:
    """Let `num_tokens` in the curves go on where it was; SFT and DPO trainers begin it at 0 again."""
    state = json.loads((resume / "trainer_state.json").read_text())
    counts = [row["num_tokens"] for row in state["log_history"] if "num_tokens" in row]
    if counts and hasattr(trainer, "_total_train_tokens"):
        trainer._total_train_tokens = int(counts[-1])


def save_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    """Keep weights and hook state between the last step and the merge.

    Parameter by parameter, tied ones once: under DeepSpeed they are views into larger buffers, which
    safetensors' own `save_model` refuses.
    """
    from safetensors.torch import save_file

    weights = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
    state = {name: value.detach().cpu().contiguous() for name, value in hooks.state_dict().items()}
    with replacing(folder) as partial:
        save_file(weights, str(partial / "model.safetensors"))
        save_file(state, str(partial / "hooks.safetensors"))


def load_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    """The inverse of `save_trained`.

    Raises:
        StoreError: the weights are of another model.
    """
    from safetensors.torch import load_file

    weights = load_file(str(folder / "model.safetensors"))
    names = {name for name, _ in model.named_parameters()}
    odd = sorted(name for name in names ^ weights.keys() if ".ref." not in name)
    if odd:
        raise StoreError(
            f"{folder}: does not fit the stage's model ({odd[0]}); remove it, and the stage trains again"
        )
    model.load_state_dict(weights, strict=False)
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
    for unfinished in partial.glob("*.partial"):  # of a process that was killed while it wrote
        _remove(unfinished)
