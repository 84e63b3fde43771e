"""Stages whose weights were removed to save disk; all else of them stays, and they say so."""

import json
from pathlib import Path

from cpt import ids
from cpt.errors import StoreError

#: In a stage's folder: names of the files that were removed.
FILE = "weights-removed.json"


def removed_weights(stage: Path) -> frozenset[str]:
    """Names, relative to the stage, of the files of weights that were removed; none of most stages.

    Raises:
        StoreError: the list of them is damaged.
    """
    try:
        return frozenset(json.loads((stage / FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{stage / FILE}: is damaged ({error}); it lists weights that keep.stages removed: remove it, "
            f"and cpt verify names those that are gone"
        ) from None


def remove_weights(stage: Path, names: list[str]) -> int:
    """Remove these files of a stage; killed on the way, the stage says that they are gone.

    Returns: the bytes that this freed.
    """
    ids.atomic_write(stage / FILE, json.dumps(sorted(names)) + "\n")
    there = [stage / name for name in names if (stage / name).is_file()]
    num_bytes = sum(place.stat().st_size for place in there if place.stat().st_nlink == 1)
    for place in there:
        place.unlink()
    return num_bytes


def made_again_by(stage: Path) -> str:
    """What a person does who wants the weights."""
    return (
        f"its weights were removed (keep.stages); cpt run of its chain makes {stage.name} again where a "
        f"later stage needs it, or with keep.stages=[its name]"
    )
