"""Attempts of a gate, each kept as soon as it is measured: how many were made on a result, by any rules.

Whoever turns the rules until the gate passes shows it: attempts that were published, and those of a gate
that was interrupted or begun anew, which lie in `<id>.partial/attempts`.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from cpt import manifest
from cpt.actions import REMEDIES
from cpt.ids import atomic_write

FOLDER = "attempts"
_RESULT = "result"  # its name ends unlike those of the attempts


def begin(partial: Path, result_id: str) -> None:
    """Say of which stage's result the attempts in a gate's folder are."""
    atomic_write(partial / FOLDER / _RESULT, result_id)


def files(partial: Path) -> list[Path]:
    """The attempts that an unfinished gate has measured."""
    return sorted((partial / FOLDER).glob("*.json"))


def earlier(stages: Path, result_id: str, own: Path) -> dict[str, int]:
    """Id of a gate's node, made or not -> attempts that it made on this result.

    Args:
        stages: where all stages lie.
        result_id: of the stage that regressed.
        own: the `.partial` that is left out.
    """
    found = {}
    for kind in REMEDIES:
        for file in sorted(stages.glob(f"{kind}-*/manifest.json")):
            entry = manifest.read(file.parent)
            if entry.parents.get("result") == result_id:
                found[entry.id] = len(entry.checks.get("gate", {}).get("attempts", ()))
        for file in sorted(stages.glob(f"{kind}-*.partial/{FOLDER}/{_RESULT}")):
            partial = file.parent.parent
            with suppress(FileNotFoundError):  # published by another chain meanwhile
                if partial != own and file.read_text(encoding="utf-8") == result_id:
                    found[partial.name.removesuffix(".partial")] = len(files(partial))
    return {name: number for name, number in found.items() if number}


def keep_alone(partial: Path) -> None:
    """Remove an unfinished stage, but for a gate's attempts: these count however often it begins."""
    for path in partial.iterdir() if partial.is_dir() else ():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name != FOLDER:
            shutil.rmtree(path, ignore_errors=True)
    if partial.is_dir() and not any(partial.iterdir()):
        partial.rmdir()
