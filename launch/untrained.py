"""Nodes of a chain that no process group trains: the base model and merges."""

import shutil

from cpt.memory import keep_freed_memory
from cpt.model_source import materialise
from cpt.model_spec import ModelSpec
from cpt.store import Store
from launch.console import Console, silenced
from stages.base import Job


def make_base(spec: ModelSpec, store: Store, console: Console) -> None:
    """Put the base model into the store: convert it, or link to where it is."""
    from datetime import UTC, datetime

    from cpt.checkpoint import digests, load_tokenizer
    from cpt.manifest import Manifest
    from stages.opening import tokenizer_digest
    from stages.publish import code, packages

    stage_id = spec.id()
    with store.lock(stage_id, console.say):
        if store.is_done(stage_id):
            return
        console.say(f"base: preparing {spec.label}")
        unfinished = store.partial(stage_id)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with silenced(not console.verbose):  # gguf draws bars of its own
            folder = materialise(spec, unfinished / "checkpoint")
        tokenizer = load_tokenizer(str(folder), spec.trust_remote_code)
        Manifest(
            id=stage_id,
            kind="base",
            name="base",
            inputs=spec.content(),
            packages=packages(),
            code=code(),
            checks={"tokenizer": tokenizer_digest(tokenizer)},
            files=digests(folder),
            finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ).write(unfinished)
        store.publish(stage_id)


def make_merge(job: Job, console: Console) -> None:
    """Make a merge stage, in this process: it needs no other. The caller holds the stage's lock."""
    from launch.steering import scorer
    from stages.merge import make

    keep_freed_memory()
    make(job, console.say, scorer(job, console))
