"""What a stage starts from: its parent's weights and tokenizer, and the earlier stages that it refers to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt import checkpoint, ids, manifest, past
from cpt.errors import EdgeError
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.context import Reference
from cpt.hooks.stack import HookStack
from cpt.model_source import apply_change, change_tokenizer
from cpt.names import is_hub_id
from cpt.past import Past, PastStage
from cpt.quantised import Quantisation
from cpt.sharding import sharding
from cpt.world import current
from stages.base import Job
from stages.checks import check_vocabulary
from stages.notes import note_check
from stages.same_tokens import check_tokenizers, traits

#: How digests of tokenizers begin; raised when they are made of other traits.
DIGEST = "2:"


def past_of(job: Job) -> Past:
    """What the stage may recall: its parent and the parent's own past; of a merge, those of all its
    models."""
    names = [job.parent]
    if job.spec.merge is not None:
        names += job.roles.values()
    folders = [Path(name) for name in names]
    return past.union(
        [
            past.of_folder(folder) if folder.is_dir() else past.of_checkpoint(name)
            for name, folder in zip(names, folders, strict=True)
        ]
    )


def start_folder(before: Past) -> str:
    """Where the stage's first weights are: the parent's, or those below an adapter it keeps apart."""
    parent = before[-1]
    if parent.folder is None:
        return parent.checkpoint
    entry = manifest.read(parent.folder)
    folder = parent.folder / entry.start
    if entry.start != "checkpoint":
        folder = folder.resolve()
        if is_hub_id(entry.start) and not folder.is_dir():
            return entry.start
        if os.path.isabs(entry.start) or not (folder / "config.json").is_file():
            raise EdgeError(
                f"{parent.folder}: its adapter lies on {entry.start}, which is no model folder and no hub id"
            )
    if (folder.parent / "manifest.json").is_file():
        checkpoint.verify(folder, manifest.read(folder.parent).files, folder.parent.name)
    return str(folder)


def first_checkpoint(before: Past, start: str, hooks: HookStack) -> str:
    """The checkpoint with the weights that the stage has before its first step.

    Its start; its parent's where it trains the parent's adapter on.
    """
    is_continued = any(getattr(hook, "after", None) == "continue" for _, hook in hooks.hooks)
    return before[-1].checkpoint if is_continued else start


def checkpoint_of(name: str) -> str:
    """The checkpoint in a stage folder; any other folder or hub id is one itself."""
    folder = Path(name)
    return str(folder / "checkpoint") if (folder / "manifest.json").is_file() else name


def open_tokenizer(job: Job, before: Past, start: str) -> Any:
    """The tokenizer of the stage's start, checked against those of all stages that it refers to, with the
    change that the stage declares.

    Raises:
        EdgeError: they differ, or it is not the one that the parent was trained with.
    """
    trust = bool(job.load.get("trust_remote_code", False))
    tokenizer = checkpoint.load_tokenizer(start, trust)
    for role, name in job.roles.items():
        verify(Path(name))
        other = checkpoint.load_tokenizer(checkpoint_of(name), trust)
        check_tokenizers(tokenizer, other, f"{job.name}: {role} {Path(name).name}")
    parent = before[-1]
    if parent.checkpoint != start:
        other = checkpoint.load_tokenizer(parent.checkpoint, trust)
        check_tokenizers(tokenizer, other, f"{job.name}: parent {parent.name}")
    expected = manifest.read(parent.folder).checks.get("tokenizer") if parent.folder else None
    # A digest of another version says nothing; the checkpoint's files were verified all the same.
    comparable = expected and expected.startswith(DIGEST)
    if comparable and expected != tokenizer_digest(tokenizer):
        raise EdgeError(
            f"{job.name}: the tokenizer in {start} is not the one that {parent.name} was trained with; "
            f"declare a change in the stage (model: {{add_tokens, chat_template}}) instead of editing files"
        )
    if job.spec.model:
        change_tokenizer(tokenizer, job.spec.model)
    return tokenizer


def open_model(
    job: Job, tokenizer: Any, start: str, quantisation: Quantisation | None = None
) -> Any:
    """The model of the stage's start, with the change that the stage declares.

    Args:
        quantisation: how its weights are held, where not as they lie on the disk.

    Raises:
        EdgeError: vocabulary, embeddings and output rows do not fit one another.
    """
    model = checkpoint.load_model(start, quantise=quantisation, **job.load)
    if job.spec.model:
        apply_change(model, tokenizer, job.spec.model)
    num_spare = check_vocabulary(model, tokenizer, f"{job.name}: {start}")
    if num_spare and current().is_main:
        note_check(job.partial, "embeddings_without_token", num_spare)
    return model


def num_new_rows(job: Job, model: Any, start: str) -> int:
    """Embeddings that the stage's own change of the tokenizer has added to those of its start."""
    if not job.spec.model:
        return 0
    before = checkpoint.load_config(start, bool(job.load.get("trust_remote_code")))
    return int(model.get_input_embeddings().weight.shape[0] - before.get_text_config().vocab_size)


def verify(stage: Path) -> None:
    """Check the checkpoint in a stage folder against its manifest; other folders have none."""
    if (stage / "manifest.json").is_file():
        checkpoint.verify(stage / "checkpoint", manifest.read(stage).files, stage.name)


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of what a tokenizer does: vocabulary, merges, added and special tokens, template."""
    return DIGEST + ids.short_hash(traits(tokenizer), 16)


def build_hooks(job: Job) -> list[Hook]:
    """The stage's hooks, fresh."""
    return [
        table.build(hook.name, dict(hook.settings), job.spec.file or job.name)
        for hook in job.spec.hooks
    ]


def load_earlier(stage: PastStage, job: Job, device: Any) -> Any:
    """A copy of an earlier stage's model, checked against what the stage wrote."""
    if stage.folder is not None:
        verify(stage.folder)
    return checkpoint.load_model(stage.checkpoint, **job.load).to(device)


def reference_loader(
    model: Any, before: Past, start: str, job: Job
) -> Callable[[PastStage], Reference]:
    """Loads earlier stages, frozen; a stage's own start needs no second model below an adapter.

    Every process reads all of an earlier stage; under FSDP2 and ZeRO-3 it then keeps its
    share.
    The adapter turned off gives `start` and nothing else: not the parent whose adapter is trained on.
    """
    from cpt.hooks.backbone import AdapterOff, FrozenReference

    loaded: dict[str, Reference] = {}

    def reference(stage: PastStage) -> Reference:
        if stage.checkpoint not in loaded:
            if stage.checkpoint == start and hasattr(model, "disable_adapter"):
                loaded[stage.checkpoint] = AdapterOff(model)
            else:
                if stage.folder and stage.checkpoint != start:
                    verify(stage.folder)
                earlier = checkpoint.load_model(stage.checkpoint, **job.load)
                held = FrozenReference(earlier, model)
                if held.spread is None:
                    _check_whole(stage, job)
                    earlier.to(next(model.parameters()).device)
                loaded[stage.checkpoint] = held
        return loaded[stage.checkpoint]

    return reference


def _check_whole(stage: PastStage, job: Job) -> None:
    """Refuse a whole copy of a reference where the plan counted on a share of it.

    Raises:
        EdgeError: the backend spreads weights, and the trained model's are whole.
    """
    if job.num_processes > 1 and "weights" in sharding(job.backend).spreads:
        raise EdgeError(
            f"{job.name}: {stage.name} cannot be spread like the trained model, whose weights {job.backend} "
            f"has left whole; use launch: ddp or zero2"
        )
