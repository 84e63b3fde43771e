"""`manifest.json`: where a checkpoint comes from, alone. Written last, so its presence means finished."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.errors import StoreError

#: 2: `files` are relative to the stage's folder and all that it left, until then those of `checkpoint/`;
#: how, machine, environment and load came with it, and are empty in a manifest of version 1.
VERSION = 2


@dataclass(frozen=True)
class Ancestor:
    """An earlier stage as seen from a stage folder; `folder` is relative to it."""

    name: str
    id: str
    kind: str
    folder: str


@dataclass(frozen=True)
class Manifest:
    """What went in, what came out, with which code, how long."""

    id: str
    kind: str
    name: str
    parents: dict[str, str] = field(default_factory=dict)
    past: tuple[Ancestor, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    hooks: tuple[dict[str, Any], ...] = ()
    data: tuple[dict[str, Any], ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    num_steps: int = 0
    memory: dict[str, float] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    start: str = "checkpoint"
    finished: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def checkpoint_files(self) -> dict[str, str]:
        """Name in `checkpoint/` -> sha256: what the stage's model is, wherever the stage lies."""
        start = "checkpoint/"
        return {
            name.removeprefix(start): digest
            for name, digest in self.files.items()
            if name.startswith(start)
        }

    def write(self, folder: Path) -> None:
        """Write into a stage folder, atomically."""
        ids.atomic_write(folder / "manifest.json", json.dumps(asdict(self), indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """Read a stage folder's manifest.

    Raises:
        StoreError: none there, or not one that this version understands.
    """
    path = folder / "manifest.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree.get("version", VERSION) > VERSION:
            raise StoreError(f"{path}: was written by a later version of cpt")
        past = tuple(Ancestor(**ancestor) for ancestor in tree.pop("past", ()))
        for key in ("hooks", "data", "notes"):
            tree[key] = tuple(tree.get(key, ()))
        if tree.get("version", 1) < 2:
            files = tree.get("files", {}).items()
            tree["files"] = {f"checkpoint/{name}": digest for name, digest in files}
            tree["version"] = VERSION  # as it would be written now
        manifest = Manifest(past=past, **tree)
    except FileNotFoundError:
        raise StoreError(f"{folder}: has no manifest.json, so it is no finished stage") from None
    except (ValueError, TypeError, AttributeError) as error:  # not JSON, not text, not a mapping
        raise StoreError(
            f"{path}: is damaged ({error}); move the folder away and run again"
        ) from None
    return manifest


def differences(one: Any, other: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(path, value, other value) of every leaf in which two JSON trees differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted({*one, *other}):
            found += differences(
                one.get(key), other.get(key), f"{path}.{key}" if path else str(key)
            )
        return found
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        found = []
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            found += differences(left, right, f"{path}.{index}")
        return found
    return [] if ids.canonical(one) == ids.canonical(other) else [(path, one, other)]
