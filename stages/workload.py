"""What a stage puts through the model, from its settings alone: for estimates, importing no TRL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpt.machine_spec import ACCELERATORS
from cpt.workload import Workload
from stages import kind_of
from stages.trl_args import batch_layout
from stages.trl_fields import fields, rollout_size


def workload(
    kind_name: str,
    train: Mapping[str, Any],
    *,
    world: int = 1,
    micro_batch: int | None = None,
    checkpoints: int = 0,
    on_cpu: bool | None = None,
) -> Workload:
    """The sequences of a stage that trains, as the trainer will be told by `trl_config`.

    Rollouts are counted by their completions: how long prompts are, the data decides; and so it does for
    rows that are not cut (`max_length: null`), which count as nothing.

    Args:
        train: what `check_train` returned.
        checkpoints: of the trainer, most that stay on the way.
        on_cpu: None for whatever this machine has.

    Raises:
        RecipeError: there is no such kind.
        PlanError: the batch does not split over the processes.
    """
    kind = kind_of(kind_name, "workload")
    known = fields(kind.config)

    def said(name: str) -> Any:
        return train.get(name, known.get(name, {}).get("default"))

    if on_cpu is None:
        on_cpu = not any(Path(device).exists() for device in ACCELERATORS)
    rolls_out = "max_completion_length" in known
    length = int(said("max_completion_length" if rolls_out else "max_length") or 0)
    batch_size = int(said("batch_size"))
    per_device, _ = batch_layout(batch_size, world, micro_batch)
    halves = [train.get(name) for name in ("bf16", "fp16")]
    checkpointing = train.get("activation_checkpointing", train.get("gradient_checkpointing"))
    steps = int(train.get("max_steps", -1))
    return Workload(
        sequences=per_device * kind.sequences_per_row,
        length=length,
        is_whole=not rolls_out and length > 0,
        per_step=batch_size * kind.sequences_per_row,
        steps=steps if steps > 0 else None,
        half=any(halves) or (halves[0] is None and not on_cpu),  # TRL's config is bf16 on GPUs
        checkpointing=not on_cpu if checkpointing is None else bool(checkpointing),
        optimizer=str(said("optim")),
        checkpoints=checkpoints,
        on_cpu=on_cpu,
        sampled=-(-rollout_size({**train, "batch_size": batch_size}) // world) if rolls_out else 0,
    )
