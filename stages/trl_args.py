"""From a checked `train:` and what the runner decides to the TRL config that a trainer takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpt.errors import PlanError
from stages.trl_fields import fields, rollout_size
from stages.trl_rules import ROLLOUT_CONFIGS

# Per device, when nothing is said: more rarely trains faster, and often does not fit.
LARGEST_MICRO_BATCH = 8
# A run of at most so many steps logs each of them; a longer one as often as TRL says.
SHORT_RUN = 100


def batch_layout(batch_size: int, world_size: int, micro_batch: int | None) -> tuple[int, int]:
    """Split a global batch into (sequences per device and backward pass, accumulation steps).

    Raises:
        PlanError: it does not split evenly; the message names the nearest batch sizes that do.
    """
    share = batch_size // world_size
    if batch_size % world_size:
        raise PlanError(
            f"batch_size {batch_size} does not split over {world_size} processes; "
            f"{_neighbours(batch_size, world_size)} does"
        )
    if micro_batch is None:
        sizes = range(1, min(share, LARGEST_MICRO_BATCH) + 1)
        micro_batch = max(size for size in sizes if share % size == 0)
    elif micro_batch < 1 or share % micro_batch:
        unit = max(micro_batch, 1) * world_size
        raise PlanError(
            f"batch_size {batch_size} does not split over {world_size} processes in micro-batches "
            f"of {micro_batch}; {_neighbours(batch_size, unit)} does"
        )
    return micro_batch, share // micro_batch


def rollout_boundary(config: str, train: Mapping[str, Any]) -> int:
    """Optimizer steps between two rollouts; 1 for what does not sample while it trains.

    A trainer keeps the completions of a rollout in memory only, so that a checkpoint between two
    boundaries continues with other ones.
    """
    if config not in ROLLOUT_CONFIGS:
        return 1
    iterations = train.get("num_iterations", fields(config)["num_iterations"]["default"])
    return rollout_size(train) // int(train["batch_size"]) * int(iterations)


def check_checkpoint_every(config: str, train: Mapping[str, Any], checkpoint_every: int) -> None:
    """Refuse checkpoints that could not continue exactly.

    Raises:
        PlanError: `checkpoint_every` is no multiple of the steps between two rollouts.
    """
    boundary = rollout_boundary(config, train)
    if checkpoint_every < 1 or checkpoint_every % boundary:
        every = f"every {boundary} steps" if boundary > 1 else "every step"
        raise PlanError(
            f"checkpoint_every {checkpoint_every}: a stage can continue exactly {every} only; "
            f"write {_neighbours(checkpoint_every, boundary)}"
        )


def trl_config(
    config: str,
    train: Mapping[str, Any],
    *,
    output_dir: Path,
    seed: int,
    use_cpu: bool,
    sharded: bool = False,
    world_size: int = 1,
    micro_batch: int | None = None,
    checkpoint_every: int | None = None,
    evaluate: bool = False,
    trackers: Sequence[str] = (),
    run_name: str | None = None,
    disable_tqdm: bool = True,
) -> Any:
    """Build the TRL config named `config`; imports TRL.

    Args:
        train: what `check_train` returned.
        output_dir: folder for the trainer's checkpoints.
        use_cpu: train on the CPU even where there is something else.
        sharded: the backend is FSDP or DeepSpeed, whose CPU runs must be set up in another way.
        checkpoint_every: optimizer steps between two checkpoints, None for none.
        evaluate: the data has a validation part.

    Raises:
        PlanError: the settings contradict each other or this machine.
    """
    import trl

    per_device, accumulation = batch_layout(int(train["batch_size"]), world_size, micro_batch)
    settings = {name: value for name, value in train.items() if name != "batch_size"}
    former = settings.pop("gradient_checkpointing", None)
    settings.setdefault("activation_checkpointing", not use_cpu if former is None else former)
    if use_cpu:
        settings.setdefault("bf16", False)
    if 0 < settings.get("max_steps", -1) <= SHORT_RUN:
        settings.setdefault("logging_steps", 1)
    if checkpoint_every is not None:
        check_checkpoint_every(config, train, checkpoint_every)
        # Two: while the newer one is written, the older one is the one to continue from.
        settings |= {"save_steps": checkpoint_every, "save_total_limit": 2}
    settings |= {
        "output_dir": str(output_dir),
        "run_name": run_name,
        "seed": seed,
        "data_seed": seed,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "no" if checkpoint_every is None else "steps",
        "report_to": list(trackers) or "none",
        "disable_tqdm": disable_tqdm,
        "logging_nan_inf_filter": False,  # it would put a mean in place of what is no number
        # Under DeepSpeed and FSDP `use_cpu` makes accelerate forget them; gloo alone does it.
        "use_cpu": use_cpu and not sharded,
        "ddp_backend": "gloo" if use_cpu and world_size > 1 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": settings.get("dataloader_pin_memory", not use_cpu),
        **_evaluation(config, train, evaluate, per_device, world_size),
    }
    try:
        return getattr(trl, config)(**settings)
    except ValueError as error:
        raise PlanError(f"train: {config} refuses its settings: {error}") from error


def _evaluation(
    config: str, train: Mapping[str, Any], evaluate: bool, per_device: int, world_size: int
) -> dict[str, Any]:
    """When held-out loss is computed, and on how many sequences at a time."""
    if not evaluate:
        if train.get("eval_steps") is not None:
            raise PlanError(
                "train.eval_steps: has no effect, since the data has no validation part; "
                "add `validation` to the data config or leave it out"
            )
        return {"eval_strategy": "no"}
    if config in ROLLOUT_CONFIGS:  # TRL wants whole groups over all devices
        default = fields(config)["num_generations"]["default"]
        group = train.get("num_generations_eval") or train.get("num_generations", default)
        per_device = next(
            size for size in range(per_device, per_device + group) if size * world_size % group == 0
        )
    strategy = "epoch" if train.get("eval_steps") is None else "steps"
    return {"eval_strategy": strategy, "per_device_eval_batch_size": per_device}


def _neighbours(number: int, unit: int) -> str:
    below = number // unit * unit
    return f"{below} or {below + unit}" if below > 0 else str(unit)
