"""What a gate puts in a stage's place, as a stage folder of its own that later stages start from.

It stands for the stage that it replaces: in the past of later stages it has that stage's name, rows, adapter
and memory, and other weights.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cpt import checkpoint, manifest, past
from cpt.past import EXEMPLARS
from cpt.store import publish, replacing
from stages.candidates import link_or_copy
from stages.opening import start_folder, tokenizer_digest
from stages.provenance import provenance

#: Of the stage that it stands for.
LEFT = (EXEMPLARS, "adapter", "memory")


@dataclass(frozen=True)
class Place:
    """Where a gate's node comes from and goes to.

    Attributes:
        id: of the node.
        kind: rollback or repair.
        result: folder of the stage that regressed.
        parent: folder of the stage that it started from.
        output: folder of the node.
        load: dtype, attention and trust_remote_code for every model of the chain.
    """

    id: str
    kind: Literal["rollback", "repair"]
    result: Path
    parent: Path
    output: Path
    load: Mapping[str, Any]

    @property
    def partial(self) -> Path:
        """Where it is made."""
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def start(self) -> str:
        """The checkpoint with the stage's first weights."""
        return start_folder(past.of_folder(self.parent))


def take_parent(place: Place) -> None:
    """`checkpoint/` with the parent's files under a second name: no bytes where the file system allows."""
    source, target = place.parent / "checkpoint", place.partial / "checkpoint"
    if source.is_symlink():  # a base model that lies elsewhere
        target.unlink(missing_ok=True)
        target.symlink_to(source.resolve(), target_is_directory=True)
        return
    with replacing(target) as folder:
        _link_tree(source, folder)


def take(place: Place, write: Callable[[Path], object]) -> None:
    """`checkpoint/` as `write` makes it in an empty folder, whole or not at all."""
    with replacing(place.partial / "checkpoint") as folder:
        write(folder)


def finish(
    place: Place,
    inputs: Mapping[str, Any],
    gate: Mapping[str, Any],
    notes: Sequence[str],
    seconds: Mapping[str, float],
    leftovers: Sequence[str],
) -> None:
    """Describe and publish the node, whose `checkpoint/` and probe result are in its `.partial`.

    Args:
        place: what it is.
        inputs: what its id hashes.
        gate: verdict, attempts and choice, for the manifest.
        notes: sentences for the report.
        seconds: of its parts.
        leftovers: files and folders that only an interrupted node needs.
    """
    partial, entry = place.partial, manifest.read(place.result)
    for name in LEFT:
        source = place.result / name
        if source.is_file():
            (partial / name).unlink(missing_ok=True)
            link_or_copy(source, partial / name)
        elif source.is_dir():
            with replacing(partial / name) as folder:
                _link_tree(source, folder)
    for name in leftovers:
        _remove(partial / name)
    checkpoint.sync(partial)
    replace(
        entry,
        id=place.id,
        kind=place.kind,
        parents={**entry.parents, "result": entry.id},
        inputs={**inputs, "stands_for": {"name": entry.name, "kind": entry.kind}},
        **provenance(entry.how, place.load),
        world={"backend": "single", "size": 1},
        seconds=dict(seconds),
        num_steps=0,
        memory={},
        checks={"tokenizer": _tokenizer(place), "gate": dict(gate)},
        notes=tuple(notes),
        files=checkpoint.digests_of_stage(partial),
        start="checkpoint",
        finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    ).write(partial)
    publish(partial, place.output)


def _tokenizer(place: Place) -> str:
    trust = bool(place.load.get("trust_remote_code", False))
    return tokenizer_digest(checkpoint.load_tokenizer(str(place.partial / "checkpoint"), trust))


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        other = target / path.relative_to(source)
        if path.is_dir():
            other.mkdir(parents=True, exist_ok=True)
        else:
            other.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path.resolve(), other)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
