"""A stage's settings become the TRL config that gives the same run on any number of processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import PlanError
from stages.trl_args import batch_layout, check_checkpoint_every, rollout_boundary, trl_config
from stages.trl_fields import check_train
from stages.trl_table import CONFIGS


def build(config: str, train: dict[str, Any] | None = None, **settings: Any) -> Any:
    checked = check_train(config, train or {}, "test")
    return trl_config(
        config, checked, **{"output_dir": Path("out"), "seed": 17, "use_cpu": True, **settings}
    )


@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro_batch", "layout"),
    [
        (1, 1, None, (1, 1)),
        (8, 1, None, (8, 1)),
        (12, 1, None, (6, 2)),
        (128, 8, None, (8, 2)),
        (22, 1, None, (2, 11)),
        (16, 2, 2, (2, 4)),
    ],
)
def test_a_batch_splits_into_micro_batches(
    batch_size: int, world_size: int, micro_batch: int | None, layout: tuple[int, int]
) -> None:
    assert batch_layout(batch_size, world_size, micro_batch) == layout
    assert layout[0] * layout[1] * world_size == batch_size


@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro_batch", "message"),
    [
        (10, 4, None, "batch_size 10 does not split over 4 processes; 8 or 12 does"),
        (2, 4, None, "batch_size 2 does not split over 4 processes; 4 does"),
        (12, 2, 4, "over 2 processes in micro-batches of 4; 8 or 16 does"),
        (4, 1, 8, "over 1 processes in micro-batches of 8; 8 does"),
    ],
)
def test_a_batch_that_does_not_split_names_the_nearest(
    batch_size: int, world_size: int, micro_batch: int | None, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        batch_layout(batch_size, world_size, micro_batch)


def test_checkpoints_lie_between_rollouts() -> None:
    train = check_train(
        "GRPOConfig", {"batch_size": 8, "generation_batch_size": 16, "num_iterations": 2}, "test"
    )
    assert rollout_boundary("GRPOConfig", train) == 4
    check_checkpoint_every("GRPOConfig", train, 8)
    with pytest.raises(PlanError, match=r"checkpoint_every 6: .* every 4 steps only; write 4 or 8"):
        check_checkpoint_every("GRPOConfig", train, 6)
    assert rollout_boundary("GRPOConfig", check_train("GRPOConfig", {}, "test")) == 1
    assert rollout_boundary("SFTConfig", check_train("SFTConfig", {}, "test")) == 1


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_can_be_built(config: str) -> None:
    args = build(config, {"max_steps": 20, "batch_size": 24}, checkpoint_every=5, evaluate=True)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 24
    assert (args.seed, args.data_seed) == (17, 17)
    assert (args.save_strategy, args.save_steps) == ("steps", 5)
    assert args.eval_strategy == "epoch"
    assert args.report_to == []
    assert (args.logging_strategy, args.logging_steps) == ("steps", 1)
    # TRL's own defaults are for a GPU.
    assert (args.bf16, args.gradient_checkpointing, args.dataloader_pin_memory) == (False,) * 3
    assert (args.use_cpu, args.ddp_find_unused_parameters) == (True, False)


def test_the_generation_batch_is_what_the_boundary_was_computed_from() -> None:
    args = build(
        "GRPOConfig",
        {"batch_size": 16, "generation_batch_size": 32, "num_generations": 4},
        micro_batch=4,
    )
    assert args.generation_batch_size == 32
    # In micro-batches: 32 completions are 2 optimizer steps of 4 accumulated ones.
    assert args.steps_per_generation == 2 * args.gradient_accumulation_steps == 8


def test_evaluation_of_a_sampling_stage_has_whole_groups() -> None:
    args = build(
        "GRPOConfig", {"batch_size": 6, "num_generations": 3}, micro_batch=2, evaluate=True
    )
    assert args.per_device_eval_batch_size % 3 == 0


def test_what_the_recipe_says_wins_over_our_defaults() -> None:
    args = build(
        "SFTConfig",
        {"max_steps": 20, "logging_steps": 5, "gradient_checkpointing": True, "bf16": True},
        trackers=["tensorboard"],
    )
    assert args.logging_steps == 5
    assert args.activation_checkpointing is True
    assert args.bf16 is True
    assert args.report_to == ["tensorboard"]
    assert args.save_strategy == "no"


def test_a_long_run_logs_as_often_as_trl_says() -> None:
    assert build("SFTConfig", {"max_steps": 1000}).logging_steps == 10


def test_sharded_backends_on_a_cpu_are_not_told_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    # With use_cpu accelerate forgets DeepSpeed and FSDP; without gloo it sees one process.
    monkeypatch.setattr(trl, "SFTConfig", SimpleNamespace)  # the real one wants two processes
    args = build("SFTConfig", use_cpu=True, sharded=True, world_size=2)
    assert (args.use_cpu, args.ddp_backend, args.bf16) == (False, "gloo", False)


def test_eval_steps_without_validation_data_are_refused() -> None:
    with pytest.raises(PlanError, match="eval_steps: has no effect"):
        build("SFTConfig", {"eval_steps": 5})
    assert build("SFTConfig", {"eval_steps": 5}, evaluate=True).eval_strategy == "steps"


def test_what_only_trl_knows_is_refused_with_its_words() -> None:
    with pytest.raises(PlanError, match=r"GRPOConfig refuses its settings: .*clip_max"):
        build(
            "GRPOConfig",
            {
                "vllm_importance_sampling_clip_min": 2.0,
                "vllm_importance_sampling_clip_max": 1.0,
            },
        )
