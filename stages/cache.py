"""Tensors that take long to make and depend on earlier stages alone: made once, kept beside the stages."""

from collections.abc import Callable
from pathlib import Path

from cpt import ids
from cpt.hooks.context import Tensors
from cpt.locks import locked
from cpt.store import replacing
from cpt.world import World
from stages.base import Job

FILE = "tensors.safetensors"


def cache_of(job: Job) -> Path:
    """Where a stage keeps them: in the store, or beside its output where it runs by hand."""
    return (job.store / "cache" if job.store else job.output.parent / "cache") / "measured"


def cached(folder: Path, world: World, key: object, make: Callable[[], Tensors]) -> Tensors:
    """Tensors made from what `key` says: read, or made by all processes together and written by the main one.

    A damaged file is made again. What is returned lies in the file, of which memory holds what is looked at.
    Two runs that make the same at the same time keep what the first one wrote: it is never replaced while
    the other reads it.

    Args:
        folder: of all of them.
        world: the other processes.
        key: everything that they depend on.
        make: run by every process at once, with the same result in each; it may use collectives.
    """
    from safetensors.torch import load_file, save_file

    name = ids.short_hash(key, 16)
    file = folder / name / FILE
    made = _read(file)
    if not world.agree_all(made is not None):
        made = {part: value.detach().cpu().contiguous() for part, value in make().items()}
        if world.is_main:
            with locked(folder / f"{name}.lock", f"{folder / name}", lambda line: None):
                if _read(file) is None:
                    with replacing(file.parent) as partial:
                        save_file(made, str(partial / FILE))
        world.barrier()
        if file.is_file():  # on a disk that all machines share
            made = load_file(str(file))
    assert made is not None
    return made


def _read(file: Path) -> Tensors | None:
    """What a whole file holds."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        return None
    try:
        found: Tensors = load_file(str(file))
    except (SafetensorError, OSError):
        return None
    return found
