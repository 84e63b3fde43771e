"""Weights of a stage on its way, which a gate may go back to: `candidates/step-N`, until the verdict.

They are hard links to files of the trainer's own checkpoints, so that keeping one costs no time, and the disk
of its weights once the trainer has removed its checkpoint. A candidate has the weights of its step as they
trained, before the averages and blends with which some hooks end a stage.
"""

import os
import shutil
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cpt import checkpoint, quantised
from cpt.errors import StoreError
from cpt.hooks.base import Hook
from cpt.hooks.lora import is_adapter
from cpt.merging.checks import copied_names
from cpt.recipe import StageSpec
from cpt.safe_weights import check_adapter
from cpt.store import replacing

FOLDER = "candidates"
_ADAPTER = "adapter_config.json"


def candidate_steps(num_steps: int, every: int | None, most: int) -> tuple[int, ...]:
    """`most` of the steps E, 2 E, ... below S at which the trainer leaves a checkpoint, evenly spaced.

    Of m such steps the k-th of n is number round(k (m + 1) / (n + 1)), half up; all of them where m <= n.

    Args:
        num_steps: S, after which there is the result itself.
        every: E; none without checkpoints.
        most: n.
    """
    steps = range(every, num_steps, every) if every else range(0)
    if len(steps) <= most:
        return tuple(steps)
    places = ((2 * k * (len(steps) + 1) + most + 1) // (2 * (most + 1)) for k in range(1, most + 1))
    return tuple(steps[place - 1] for place in places)


def has_candidates(spec: StageSpec, hooks: Sequence[Hook]) -> bool:
    """Whether what the trainer writes on the way can be made a checkpoint that opens alone.

    Not of adapters that peft cannot merge from their file alone (osf), and not of an adapter below which the
    stage itself changes the embeddings.
    """
    if any(hook.name == "osf" for hook in hooks):
        return False
    return spec.model is None or not any(is_adapter(hook) for hook in hooks)


def keep_candidates(
    trainer: Any, partial: Path, steps: Collection[int], resume: str | None, is_main: bool
) -> None:
    """Let the trainer keep the weights of these steps.

    Args:
        trainer: a TRL trainer.
        partial: the stage's folder.
        steps: see `candidate_steps`.
        resume: the checkpoint that it continues from, whose weights an interruption may have left unkept.
        is_main: whether this process writes.
    """
    if not is_main or not steps:
        return
    if resume is not None:
        _keep(Path(resume), partial, steps)
    trainer.add_callback(_callback()(partial, steps))


def kept(stage: Path) -> dict[int, Path]:
    """Step -> folder of the candidates that a stage holds, the first one first."""
    found = {}
    for folder in (stage / FOLDER).glob("step-*"):
        step = folder.name.removeprefix("step-")
        if step.isdigit():
            found[int(step)] = folder
    return dict(sorted(found.items()))


def remove_unfinished(partial: Path) -> None:
    """Remove what a process that was killed left half linked."""
    for folder in (partial / FOLDER).glob("*.partial"):
        shutil.rmtree(folder)


def remove_candidates(stage: Path) -> None:
    """Remove what a stage kept for a verdict, once that is known."""
    shutil.rmtree(stage / FOLDER, ignore_errors=True)


def write_candidate(
    candidate: Path, result: Path, start: str, folder: Path, load: dict[str, Any]
) -> None:
    """Write a candidate's weights into an empty folder, which then opens alone.

    Args:
        candidate: its folder.
        result: the stage's checkpoint, whose tokenizer and configuration it has, within its folder.
        start: the checkpoint that the stage started from, which lies below an adapter.
        folder: an empty one.
        load: dtype, attention and trust_remote_code.
    """
    if (candidate / _ADAPTER).is_file():
        from peft import PeftModel

        held = quantised.of_stage(result.parent)
        model: Any = checkpoint.load_model(start, quantise=held, **load)
        dtype = model.dtype
        model = PeftModel.from_pretrained(model, check_adapter(candidate))
        if held is not None:
            model = quantised.merged(model, dtype)
        else:
            model = model.merge_and_unload(safe_merge=True)
        model.save_pretrained(folder)
    else:
        for file in candidate.iterdir():
            link_or_copy(file, folder / file.name)
    for name in copied_names(path.name for path in result.iterdir()):
        shutil.copyfile(result / name, folder / name)


def link_or_copy(file: Path, other: Path) -> None:
    """One more name for a file; a copy where the file system has one name for each."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


def _keep(trained: Path, partial: Path, steps: Collection[int]) -> None:
    step = int(trained.name.removeprefix("checkpoint-"))
    folder = partial / FOLDER / f"step-{step}"
    weights = [
        file
        for file in trained.glob("*.safetensors*")
        if file.name.startswith(("model", "adapter_model"))
    ]
    if step not in steps or folder.is_dir():
        return
    if not weights:
        raise StoreError(
            f"{trained}: has no *.safetensors, which a gate could go back to; the trainer writes its weights "
            f"otherwise: write gate.candidates=0"
        )
    with replacing(folder) as unfinished:
        for file in [*weights, *trained.glob(_ADAPTER)]:
            link_or_copy(file, unfinished / file.name)


@cache
def _callback() -> type:
    from transformers import TrainerCallback

    class Candidates(TrainerCallback):
        """Runs once a checkpoint is whole; `_save_checkpoint` of the seam has marked it then."""

        def __init__(self, partial: Path, steps: Collection[int]) -> None:
            self.partial, self.steps = partial, steps

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Link the weights."""
            _keep(
                Path(args.output_dir) / f"checkpoint-{state.global_step}", self.partial, self.steps
            )

    return Candidates
