"""What an interrupted stage leaves behind, and how it continues.

`trainer/checkpoint-N` while it trains, `trained/` before the merge, `checkpoint/` before publishing.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cpt import ids, manifest
from cpt.errors import StoreError
from cpt.hooks.stack import HookStack
from cpt.safe_weights import check_own
from cpt.store import MARK, complete_checkpoints, damaged_files, replacing
from cpt.world import World
from stages.base import Job
from stages.material import VERSION
from stages.notes import FILE as CHECKS

#: Of weights that were spread, on their way to the disk.
BYTES_PER_FILE = 2**31
#: What only an interrupted stage needs. The data last: killed before, it need not be tokenised again.
LEFTOVERS = (
    "trainer",
    "trained",
    "job.json",
    "topology.json",
    "checks.json",
    "data.json",
    "data",
)


def check_topology(partial: Path, job: Job, world: World) -> None:
    """An interrupted stage continues as the stage, on as many processes and on the rows that it began with.

    Raises:
        StoreError: it is another stage (by hand, where folders are not named by content), or the topology
            or the rows are others.
    """
    file = partial / "topology.json"
    own = {"id": job.id, "backend": job.backend, "size": world.size, "rows": VERSION}
    own["deterministic"] = job.deterministic
    # Until 2 nobody wrote down which rows it were, and before deterministic mode there was none.
    before = {"rows": 1, "deterministic": False}
    recorded = {**before, **json.loads(file.read_text())} if file.is_file() else {}
    began = own
    if (partial / "manifest.json").is_file():
        began = {**own, "id": manifest.read(partial).id}
    elif _has_trained(partial):
        began = {**own, **recorded}
    if began["id"] != job.id:
        raise StoreError(
            f"{partial}: is what {began['id']} left when it was interrupted, and this stage is "
            f"{job.id}; remove it, or name another output"
        )
    if began["rows"] != VERSION:
        raise StoreError(
            f"{partial.name}: began on rows of version {began['rows']} and would continue on other ones, of "
            f"version {VERSION}; use the code that it began with, or --restart to begin anew"
        )
    if began["deterministic"] != job.deterministic:
        raise StoreError(
            f"{partial.name}: began {'with' if began['deterministic'] else 'without'} `deterministic` and "
            f"would continue {'with' if job.deterministic else 'without'} it; use the same, or --restart to "
            f"begin anew"
        )
    if began != own:
        raise StoreError(
            f"{partial.name}: began on {began['backend']} with {began['size']} processes and would "
            f"continue on {job.backend} with {world.size}; use the same, or --restart to begin anew"
        )
    if recorded.get("id", job.id) != job.id:
        (partial / CHECKS).unlink(missing_ok=True)  # another stage's, which had trained nothing yet
    ids.atomic_write(file, json.dumps(own))


def _has_trained(partial: Path) -> bool:
    parts = (partial / "trained", partial / "checkpoint")
    return bool(complete_checkpoints(partial / "trainer")) or any(part.is_dir() for part in parts)


def is_trained(partial: Path, world: World) -> bool:
    """Whether its last step is behind the stage, with whole weights on the disk; one answer for all."""
    return bool(world.agree(any((partial / part).is_dir() for part in ("trained", "checkpoint"))))


def newest_checkpoint(partial: Path, world: World, say: Callable[[str], None]) -> str | None:
    """The newest trainer checkpoint that is whole; what is not is removed.

    Args:
        say: told of each that was whole once.
    """
    if world.is_main:
        _remove_broken(partial / "trainer", say)
    world.barrier()
    found = complete_checkpoints(partial / "trainer")
    return check_own(found[-1][1]) if found else None


def _remove_broken(trainer: Path, say: Callable[[str], None]) -> None:
    """Leave marked checkpoints only, of which the newest has the bytes that its mark vouches for."""
    whole = {folder for _, folder in complete_checkpoints(trainer)}
    for folder in trainer.glob("checkpoint-*"):
        if folder not in whole:
            if (folder / MARK).is_file():
                _tell(folder, say)
            shutil.rmtree(folder)
    while (left := complete_checkpoints(trainer)) and damaged_files(folder := left[-1][1]):
        _tell(folder, say)
        (folder / MARK).unlink()  # killed now, it is none
        shutil.rmtree(folder)


def _tell(checkpoint: Path, say: Callable[[str], None]) -> None:
    damaged = damaged_files(checkpoint)[0].relative_to(checkpoint.parent)
    say(f"{damaged} of the trainer is damaged, and is not continued from")


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

    weights = {
        name: weight.detach().cpu().clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
        or weight.is_floating_point()  # 4-bit codes are made from the start anew
    }
    state = {name: value.detach().cpu().contiguous() for name, value in hooks.state_dict().items()}
    with replacing(folder) as partial:
        save_file(weights, str(partial / "model.safetensors"))
        save_file(state, str(partial / "hooks.safetensors"))


def save_spread(
    folder: Path, weights: Iterator[tuple[str, Any]], hooks: HookStack, world: World
) -> None:
    """`save_trained` where weights are spread: those that were trained, one at a time; all processes call it.

    Args:
        weights: (full name, whole tensor); `cpt.hooks.trainer` makes them whole one after the other.
    """
    from safetensors.torch import save_file

    with replacing(folder) if world.is_main else nullcontext() as partial:
        held: dict[str, Any] = {}
        number = 0
        for name, weight in weights:
            if partial is None:
                continue
            held[name] = weight.cpu().clone()
            if sum(value.nbytes for value in held.values()) > BYTES_PER_FILE:
                save_file(held, str(partial / f"model-{number:05}.safetensors"))
                held, number = {}, number + 1
        if partial is not None:
            save_file(held, str(partial / f"model-{number:05}.safetensors"))
            state = {
                name: value.detach().cpu().contiguous()
                for name, value in hooks.state_dict().items()
            }
            save_file(state, str(partial / "hooks.safetensors"))
    world.barrier()


def load_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    """The inverse of `save_trained` and `save_spread`.

    Raises:
        StoreError: the weights are damaged, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    own = dict(model.named_parameters())
    left = {name for name, parameter in own.items() if parameter.requires_grad}
    try:
        for file in sorted(folder.glob("model*.safetensors")):
            weights = load_file(str(file))
            odd = [name for name in sorted(weights.keys() - own.keys()) if ".ref." not in name]
            if odd:
                break
            left -= weights.keys()
            model.load_state_dict(weights, strict=False)
        else:
            odd = sorted(left)
        state = load_file(str(folder / "hooks.safetensors"))
    except (SafetensorError, OSError) as error:
        raise StoreError(
            f"{folder}: is damaged ({error}); remove it, and the stage trains again"
        ) from error
    if odd:
        raise StoreError(
            f"{folder}: does not fit the stage's model ({odd[0]}); remove it, and the stage trains again"
        )
    hooks.load_state_dict(state)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(partial: Path) -> None:
    """Remove what a finished stage does not need."""
    for leftover in LEFTOVERS:
        if leftover == "data":
            # Its tables are still mapped: NFS keeps such files under other names until they are let go.
            shutil.rmtree(partial / leftover, ignore_errors=True)
        else:
            _remove(partial / leftover)
    for unfinished in partial.glob("*.partial"):  # of a process that was killed while it wrote
        _remove(unfinished)
