"""What a stage leaves beside its weights when it is done: manifest and exemplars."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cpt import checkpoint, manifest
from cpt.hooks import table
from cpt.hooks.lora import stays_apart
from cpt.hooks.stack import HookStack
from cpt.past import Past
from cpt.store import replacing
from cpt.world import World
from stages.base import Job, StageKind
from stages.opening import tokenizer_digest
from stages.provenance import provenance


class Account(Protocol):
    """What a manifest says of how a stage was made, besides its settings."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def description(self) -> list[dict[str, Any]]:
        """Of each source of rows."""
        ...

    @property
    def notes(self) -> list[str]:
        """Sentences for the report."""
        ...


def save_checkpoint(partial: Path, model: Any, tokenizer: Any) -> None:
    """`checkpoint/`, whole or not at all: a Hugging Face folder that opens alone."""
    with replacing(partial / "checkpoint") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        checkpoint.sync(folder)


def write_lines(path: Path, rows: list[Any]) -> None:
    """JSON Lines, in ASCII; what JSON has no word for, such as a date, as text."""
    with path.open("w", encoding="ascii") as file:
        for row in rows:
            file.write(json.dumps(row, default=str) + "\n")


def describe(
    job: Job,
    kind: StageKind,
    before: Past,
    data: Account,
    hooks: HookStack,
    world: World,
    seconds: Mapping[str, float],
    checks: dict[str, Any],
    memory: Mapping[str, float],
) -> manifest.Manifest:
    """The manifest of a stage that is whole but for its name.

    Args:
        memory: peaks in bytes by place, as `stages.memory` tells them.
    """
    import torch

    final = job.output
    ancestors = tuple(
        manifest.Ancestor(stage.name, stage.id, stage.kind, _relative(stage.folder, final))
        for stage in before
        if stage.folder is not None
    )
    start = "checkpoint"
    if stays_apart([hook for _, hook in hooks.hooks]):  # a folder, or a hub id
        below = Path(hooks.ctx.start)
        start = _relative(below, final) if below.is_dir() else hooks.ctx.start
    tokenizer = checkpoint.load_tokenizer(
        str(job.partial / "checkpoint"), bool(job.load.get("trust_remote_code"))
    )
    return manifest.Manifest(
        id=job.id,
        kind=kind.name,
        name=job.name,
        parents=dict(job.parents),
        past=ancestors,
        inputs=dict(job.inputs),
        hooks=tuple(
            {"name": key, "settings": table.settings_of(hook)} for key, hook in hooks.hooks
        ),
        data=tuple(data.description),
        **provenance(job.how, job.load),
        world={
            "backend": job.backend,
            "size": world.size,
            "deterministic": job.deterministic,
            "device": torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else platform.processor() or "cpu",
        },
        seconds=dict(seconds),
        num_steps=data.num_steps,
        memory=dict(memory),
        checks={**checks, "tokenizer": tokenizer_digest(tokenizer)},
        notes=tuple(data.notes),
        files=checkpoint.digests_of_stage(job.partial),
        start=start,
        finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _relative(folder: Path | None, origin: Path) -> str:
    assert folder is not None
    return os.path.relpath(folder.resolve(), origin.resolve())
