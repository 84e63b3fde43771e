"""How long stages and probes take, from what was measured in the same store and nothing else."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt import manifest
from cpt.errors import CptError
from cpt.model_size import of_folder
from cpt.store import Store
from cpt.workload import Workload

#: What of a store is read: the newest stages, so that a plan stays quick.
MOST_STAGES = 20

WorkloadOf = Callable[[str, Mapping[str, Any]], Workload]


@dataclass(frozen=True)
class Measured:
    """One finished stage: seconds of its making by the clock on the wall, and parameters times tokens.

    `work` is 0 where nothing was trained or the settings do not say how much; `probing` is None where the
    suite was not measured; `copied` counts the parameters that a merge read and wrote; `hooks` are named.
    """

    id: str
    kind: str
    seconds: float
    world: tuple[str, int]
    work: float
    num_parameters: int
    probing: float | None
    copied: int = 0
    hooks: frozenset[str] = frozenset()


def measured(
    store: Store, suite_file: str, workload_of: WorkloadOf, own: Collection[str] = ()
) -> list[Measured]:
    """The stages called `own` and the store's newest; a damaged one is left out: who uses it says so."""
    found = []
    folders = [file.parent for file in store.stages.glob("*/manifest.json")]
    newest = sorted(folders, key=lambda folder: folder.stat().st_mtime)[-MOST_STAGES:]
    for folder in [folder for folder in folders if folder in newest or folder.name in own]:
        try:
            found.append(_stage(folder, suite_file, workload_of))
        except (CptError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _stage(folder: Path, suite_file: str, workload_of: WorkloadOf) -> Measured:
    entry = manifest.read(folder)
    size = of_folder(folder / "checkpoint")
    number = size.num_parameters if size else 0
    work, copied = 0.0, 0
    if merge := entry.inputs.get("merge"):
        if not merge.get("steering"):  # the time of one that chooses by a probe is the probe's
            copied = number * (len({*entry.parents.values()}) + 1)
    elif "train" in entry.inputs:  # not the base model, and not what a gate made
        load = workload_of(entry.kind, entry.inputs["train"])
        work = float(number * entry.num_steps * load.per_step * load.length)
    result = folder / "probes" / suite_file
    probing = json.loads(result.read_text())["seconds"] if result.is_file() else None
    if "stands_for" in entry.inputs:  # a gate's: the result was measured with its attempts
        probing = None
    world = (str(entry.world.get("backend", "single")), int(entry.world.get("size", 1)))
    seconds = sum(entry.seconds.values())
    hooks = frozenset(str(hook["name"]) for hook in entry.hooks)
    return Measured(entry.id, entry.kind, seconds, world, work, number, probing, copied, hooks)


def rate(
    stages: Iterable[Measured],
    kind: str,
    world: tuple[str, int],
    hooks: frozenset[str] = frozenset(),
) -> float | None:
    """Process-seconds for a parameter and token: sum of seconds * processes over sum of N * tokens.

    Of the stages of this kind with the same hooks on this backend and as many processes; where there are
    none, with any hooks; then on any backend; then of any kind. Tokens are steps * batch * length on both
    sides, so a stage whose sequences are shorter than `max_length` predicts stages of its own kind, and
    those of other kinds too high.
    A stage that was interrupted noted only its last run, and predicts too low.
    """
    trained = [stage for stage in stages if stage.work > 0 and stage.seconds > 0]
    alike = [stage for stage in trained if stage.kind == kind]
    here = [stage for stage in alike if stage.world == world]
    same = [stage for stage in here if stage.hooks == hooks]
    chosen = same or here or alike or trained
    if not chosen:
        return None
    return sum(s.seconds * s.world[1] for s in chosen) / sum(s.work for s in chosen)


def copying_rate(stages: Iterable[Measured]) -> float | None:
    """Seconds for a parameter that a merge reads or writes: sum of seconds over sum of parameters."""
    merged = [stage for stage in stages if stage.copied]
    copied = sum(stage.copied for stage in merged)
    return sum(stage.seconds for stage in merged) / copied if copied else None


def probing_rate(stages: Iterable[Measured]) -> float | None:
    """Seconds of the suite for a parameter: sum of seconds over sum of N."""
    chosen = [stage for stage in stages if stage.probing is not None and stage.num_parameters]
    if not chosen:
        return None
    return sum(s.probing or 0.0 for s in chosen) / sum(s.num_parameters for s in chosen)
