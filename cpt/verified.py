"""Files checked against the digests that were taken of them: read once, then known by their `stat`.

A file that was found whole is not read again while its device, inode, size and times stay what they were.
What changes its bytes changes its ctime, which no program can set. A disk that loses bits changes none of
them: that is found when the file is read in full (`cpt verify`).
"""

import contextlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cpt import ids

#: A change within one tick of the file system's clock leaves the times as they are: what was written just
#: now is read again.
SETTLED_SECONDS = 2.0
#: Removed as a whole once a verdict is known.
PASSING = "candidates"
_CHECKPOINT = "checkpoint"
#: What libraries load from a model's folder because it is there: one whole file before the parts that an
#: index names, an adapter on top of the weights, another template, code.
_LOADED_KINDS = (".safetensors", ".jinja", ".model", ".py")
_LOADED_NAMES = (
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Damage:
    """One file of a stage that is not what was written."""

    path: Path
    problem: str


def damages(stage: Path, files: Mapping[str, str], in_full: bool = False) -> list[Damage]:
    """What is wrong with a stage's files.

    Args:
        stage: its folder.
        files: name relative to it -> sha256.
        in_full: read every file, whatever is known of it.
    """
    known_file = _known_file(stage)
    known = {} if in_full else _read(known_file)
    seen: dict[str, list[Any]] = {}
    found = []
    for name, digest in files.items():
        if problem := _problem(stage, name, digest, known, seen):
            found.append(Damage(stage / name, problem))
    if any(known.get(name) != entry for name, entry in seen.items()):
        # Of a store that cannot be written, or on a full disk, the files are read again next time.
        with contextlib.suppress(OSError):
            ids.atomic_write(known_file, json.dumps({**_read(known_file), **seen}))
    return found


def strangers(stage: Path, files: Collection[str]) -> list[Damage]:
    """Files in a stage's checkpoint that it did not leave there and that change what is loaded from it.

    A base model that lies elsewhere may lie beside other files.

    Args:
        files: names that the manifest has, relative to the stage.
    """
    folder = stage / _CHECKPOINT
    if folder.is_symlink() or not any(name.startswith(f"{_CHECKPOINT}/") for name in files):
        return []
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        Damage(path, "is not of the stage, and libraries load it with the model: remove this file")
        for path in there
        if (path.suffix in _LOADED_KINDS or path.name in _LOADED_NAMES)
        and f"{_CHECKPOINT}/{path.name}" not in files
    ]


def forget(stage: Path) -> None:
    """Remove what is known of a stage's files."""
    _known_file(stage).unlink(missing_ok=True)


def _problem(
    stage: Path,
    name: str,
    digest: str,
    known: Mapping[str, list[Any]],
    seen: dict[str, list[Any]],
) -> str:
    """What is wrong with one file; nothing, and `seen` says how it looks, where nothing is."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        return "is named by the manifest and lies outside of the stage"
    path = stage / name
    try:
        before = _look(path)
    except OSError:
        if place.parts[0] == PASSING and not (stage / PASSING).is_dir():
            return ""
        top = stage / place.parts[0]
        if top.is_symlink() and not top.exists():
            return f"is missing: {top.name} links to {top.readlink()}, which is gone"
        return "is missing"
    if known.get(name) == [*before, digest]:
        return ""
    try:
        is_whole = ids.sha256_file(path) == digest
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not is_whole:
        return "is damaged: " + (
            "its bytes are not the ones that were written" if before[2] else "it is empty"
        )
    if time.time() - max(before[3:]) / 1e9 >= SETTLED_SECONDS and before == _look(path):
        seen[name] = [*before, digest]
    return ""


def _look(path: Path) -> list[int]:
    status = path.stat()
    if not path.is_file():
        raise FileNotFoundError(path)
    return [
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]


def _known_file(stage: Path) -> Path:
    """In the store's cache; of a stage by hand, in the cache of this user."""
    if stage.parent.name == "stages":
        return stage.parent.parent / "cache" / "verified" / f"{stage.name}.json"
    return ids.cache_dir() / "verified" / f"{ids.short_hash(str(stage.absolute()), 16)}.json"


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
