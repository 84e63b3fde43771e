"""What measuring a job's checkpoint in this process group takes: its model, the group, and a cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpt import checkpoint, ids
from cpt.store import Store
from cpt.world import World
from stages.base import Job


def load(folder: str, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint; `settings` are a job's `load`."""
    given = dict(settings)
    tokenizer = checkpoint.load_tokenizer(folder, bool(given.get("trust_remote_code", False)))
    return checkpoint.load_model(folder, **given), tokenizer


def opened(folder: Path, settings: Mapping[str, Any], world: World) -> tuple[Any, Any]:
    """As `load`; spread over the processes where a device has no room for all of it."""
    from launch.spread import fits_one, load_spread

    if world.size == 1 or fits_one(folder, world):
        return load(str(folder), settings)
    trust = bool(settings.get("trust_remote_code", False))
    return load_spread(folder, settings, world), checkpoint.load_tokenizer(str(folder), trust)


def accelerator_of(world: World) -> Any:
    """What shares requests out over the processes; None for one."""
    if world.size == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def cache_of(job: Job) -> Path:
    """Where a suite's tasks are written for lm-eval: the store's, or for a stage by hand the user's own."""
    return Store(job.store).cache if job.store else ids.cache_dir()
