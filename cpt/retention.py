"""What of a store nobody needs any more, and how it is removed so that a kill leaves it whole or gone."""

import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cpt.checkpoint import LEFT
from cpt.reachable import finished
from cpt.store import MARK, Store, complete_checkpoints
from cpt.verified import PASSING, forget

#: Within a stage, of what only training needs.
TRAINING = ("trainer", "trained", "data")
_REMOVED = ".removed-"


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Args:
        path: a folder or file.
        why: for people.
        stage_id: whose lock protects it.
        num_bytes: that its removal frees; files with another name elsewhere free none.
        is_stage: a whole finished stage.
    """

    path: Path
    why: str
    stage_id: str
    num_bytes: int
    is_stage: bool = False


def leftovers(
    store: Store,
    trees: Mapping[str, Mapping[str, Any]],
    needed: Collection[str],
    pins: Collection[str],
    older: float,
    only: str | None = None,
) -> list[Item]:
    """Everything that can go, finished stages too, in order of its path.

    Args:
        trees: of all chains; see `cpt.reachable.chains`.
        needed: see `cpt.reachable.reachable`.
        pins: stages of which all is kept.
        older: seconds since the last change, for what a person may come back to: stages, finished or not,
            that no chain names, and damaged ones that were moved aside. A run that was interrupted in its
            first new stage is such a one: its chain names it only later.
        only: look at this stage alone.
    """
    found = list[Item]()
    done, before = finished(store), time.time() - older
    for folder in sorted(store.stages.glob("*")):
        stage_id, _, rest = folder.name.partition(".")
        if only not in (None, stage_id):
            continue
        is_old = _newest(folder) < before
        if _REMOVED in folder.name:
            found.append(_item(folder, "its removal was interrupted", stage_id))
        elif rest.startswith("broken-") and is_old:
            found.append(_item(folder, "damaged, and made anew since", stage_id))
        elif rest == "without-weights" and stage_id in done and is_old:
            found.append(_item(folder, "its stage was made again", stage_id))
        elif rest == "partial" and stage_id in done:
            found.append(_item(folder, "its stage is finished", stage_id))
        elif rest == "partial" and stage_id not in needed and is_old:
            found.append(_item(folder, "interrupted, and in no chain", stage_id))
        elif rest == "partial":
            found += _of_training(folder, stage_id)
        elif not rest and stage_id in done:
            if stage_id not in needed and is_old:
                found.append(_item(folder, "in no chain", stage_id, is_stage=True))
                continue
            found += [
                _item(place, "only training needed it", stage_id)
                for name in TRAINING
                if (place := folder / name).exists()
            ]
            if (
                (folder / PASSING).is_dir()
                and stage_id not in pins
                and _is_judged(stage_id, trees, done)
            ):
                found.append(_item(folder / PASSING, "the gate has judged its stage", stage_id))
            found += _unfinished(folder, stage_id)
    for file in sorted((store.root / "jobs").glob("*")):
        # Hidden: what a process that was killed was writing. It has the stage's name all the same.
        stage_id = file.name.lstrip(".").partition(".")[0]
        with suppress(FileNotFoundError):  # a group at work writes and removes them all the time
            if only in (None, stage_id) and file.lstat().st_mtime < before:
                found.append(_item(file, "of a process group that has ended", stage_id))
    return found


def _of_training(partial: Path, stage_id: str) -> Iterator[Item]:
    """Of an interrupted stage that goes on: trainer checkpoints that it will not need."""
    trainer = partial / "trainer"
    if (partial / "trained").is_dir() or (partial / "checkpoint").is_dir():
        if trainer.is_dir():
            yield _item(trainer, "its training is over", stage_id)
    else:
        whole = [folder for _, folder in complete_checkpoints(trainer)]
        for folder in sorted(trainer.glob("checkpoint-*")):
            if folder not in whole:
                yield _item(folder, "it is not whole", stage_id)
    yield from _unfinished(partial, stage_id)


def _unfinished(folder: Path, stage_id: str) -> Iterator[Item]:
    """What a process that was killed had not finished to write or to remove."""
    for place in sorted([*folder.glob("*.partial"), *folder.glob(f"*{_REMOVED}*")]):
        if place.name.partition(".")[0] in (*LEFT, *TRAINING, "candidate"):
            yield _item(place, "half written, or half removed", stage_id)


def _is_judged(
    stage_id: str, trees: Mapping[str, Mapping[str, Any]], done: Collection[str]
) -> bool:
    """Whether every chain of a stage went on behind it, which it does once the gate has judged.

    Of a stage that no chain names yet nobody knows.
    """
    lines = [[node["id"] for node in tree["nodes"]] for tree in trees.values()]
    own = [line[line.index(stage_id) + 1 :] for line in lines if stage_id in line]
    return bool(own) and all(any(later in done for later in line) for line in own)


def remove(item: Item) -> None:
    """Remove it: at once under another name, then bit by bit."""
    path = item.path
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    if item.is_stage:
        forget(path)
    (path / MARK).unlink(missing_ok=True)  # a trainer's checkpoint is none without it
    if _REMOVED not in path.name:
        path = path.rename(path.with_name(f"{path.name}{_REMOVED}{time.time_ns()}"))
    shutil.rmtree(path)


def _item(path: Path, why: str, stage_id: str, is_stage: bool = False) -> Item:
    return Item(path, why, stage_id, sum(_sizes(path)), is_stage)


def _sizes(path: Path) -> Iterator[int]:
    for status in _looks(path):
        if status.st_nlink == 1 and not stat.S_ISDIR(status.st_mode):
            yield status.st_size


def _newest(folder: Path) -> float:
    """When anything in a folder changed last."""
    return max((status.st_mtime for status in _looks(folder)), default=0.0)


def _looks(path: Path) -> Iterator[os.stat_result]:
    """How a path and all below it look; a run may remove some of it meanwhile."""
    inside = (
        os.path.join(folder, name)
        for folder, folders, files in os.walk(path)
        for name in (*folders, *files)
    )
    for place in chain([str(path)], inside):
        with suppress(FileNotFoundError):
            yield os.lstat(place)
