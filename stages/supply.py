"""What a stage trains on, as files that every process opens: made once, by the main process.

The others wait for a word from it in a file, not in a collective, which would time out (NCCL after 10
minutes) while millions of rows are tokenised.

That does not hold for DPO: TRL tokenises pairs itself, in the main process first, while the others wait in a
collective (`global_then_local_main_first` in trl/trainer/dpo_trainer.py). On NCCL some 10^5 pairs may take
longer than its 10 minutes; under gloo it is 30.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt import checkpoint, errors, ids
from cpt.rows import Row
from cpt.store import replacing
from cpt.world import World

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, HELD_OUT, REST, MARK = "train.arrow", "held_out.arrow", "supply.json", "made.json"
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Supply:
    """What a stage trains on, and what of it goes into the manifest."""

    train: "Dataset"
    held_out: "Dataset | None"
    num_steps: int
    exemplars: list[Row]
    description: list[dict[str, Any]]
    notes: list[str]


def open_supply(folder: Path) -> Supply:
    """What `folder` holds; its tables are mapped into memory, not read."""
    from datasets import Dataset

    rest = json.loads((folder / REST).read_text(encoding="utf-8"))
    held_out = folder / HELD_OUT
    return Supply(
        train=Dataset.from_file(str(folder / TRAIN)),
        held_out=Dataset.from_file(str(held_out)) if held_out.is_file() else None,
        **rest,
    )


def supply_once(folder: Path, key: str, world: World, make: Callable[[Path], object]) -> Supply:
    """Let the main process make a supply, and open it in every process; or open what was made before.

    Args:
        folder: where it is kept; there only when it is whole.
        key: what it was made from; with another one it is made again.
        make: writes it into the folder that it is given.

    Raises:
        CptError: what the main process could not do; the others raise the same.
    """
    # A word left by an earlier launch bears another number.
    launch = world.agree(uuid.uuid4().hex)
    word = folder.with_name(f"{folder.name}.json")
    if not world.is_main:
        wait(word, launch)
        return open_supply(folder)
    try:
        found = _made_before(folder, key)
        if found is None:
            with replacing(folder) as partial:
                make(partial)
                _mark(partial, key)
            found = open_supply(folder)
    except BaseException as error:  # of any kind: the others would wait for ever
        if world.size > 1:
            with suppress(OSError):
                told = {"error": type(error).__name__, "message": str(error)}
                ids.atomic_write(word, json.dumps({"launch": launch, **told}))
        raise
    if world.size > 1:
        ids.atomic_write(word, json.dumps({"launch": launch}))
    return found


def _mark(folder: Path, key: str) -> None:
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    ids.atomic_write(folder / MARK, json.dumps({"key": key, "sizes": sizes}))
    checkpoint.sync(folder)


def _made_before(folder: Path, key: str) -> Supply | None:
    """What an interrupted stage left, if it is whole and made from the same."""
    try:
        mark = json.loads((folder / MARK).read_text())
        sizes = {name: (folder / name).stat().st_size for name in mark["sizes"]}
        return open_supply(folder) if mark == {"key": key, "sizes": sizes} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait(word: Path, launch: str) -> None:
    """Wait for the main process's word of this launch.

    Raises:
        CptError: what the main process says that it could not do.
    """
    while (said := _read(word)).get("launch") != launch:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if "error" in said:
        kind = getattr(errors, said["error"], None)
        if isinstance(kind, type) and issubclass(kind, errors.CptError):
            raise kind(said["message"])
        raise errors.StoreError(
            f"the main process could not do its part of the stage: {said['error']}: {said['message']}"
        )


def _read(word: Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(word.read_text()))
    except FileNotFoundError:
        return {}
