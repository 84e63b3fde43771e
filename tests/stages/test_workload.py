"""What a stage puts through the model, as its trainer will be told."""

import pytest

from stages.trl_fields import check_train
from stages.workload import workload


def test_sequences_are_those_of_one_backward_pass() -> None:
    train = check_train("SFTConfig", {"batch_size": 32, "max_length": 64, "max_steps": 3}, "x")
    load = workload("sft", train, world=2, micro_batch=4, on_cpu=True)
    assert (load.sequences, load.length, load.per_step, load.steps) == (4, 64, 32, 3)
    assert load.tokens == 3 * 32 * 64
    assert workload("sft", train, world=2).sequences == 8  # as `batch_layout` has it
    assert load.is_whole


def test_pairs_are_two_sequences() -> None:
    load = workload("dpo", {"batch_size": 4, "max_length": 64, "max_steps": 3})
    assert (load.sequences, load.per_step, load.tokens) == (8, 8, 3 * 8 * 64)


def test_rollouts_count_without_their_prompts() -> None:
    load = workload("grpo", {"batch_size": 8, "max_completion_length": 16, "max_steps": 2})
    assert (load.length, load.tokens, load.is_whole) == (16, 2 * 8 * 16, False)


def test_trls_defaults_hold_where_nothing_is_said() -> None:
    load = workload("pretrain", {})
    assert (load.per_step, load.length, load.optimizer) == (8, 1024, "adamw_torch_fused")
    assert (load.steps, load.tokens) == (None, None)


def test_rows_that_are_not_cut_have_no_known_length() -> None:
    load = workload("dpo", {"max_length": None, "max_steps": 2})
    assert (load.length, load.tokens, load.is_whole) == (0, 0, False)


@pytest.mark.parametrize(
    ("train", "on_cpu", "half", "checkpointing"),
    [
        ({}, True, False, False),
        ({}, False, True, True),
        ({"bf16": True, "activation_checkpointing": True}, True, True, True),
        ({"bf16": False, "gradient_checkpointing": False}, False, False, False),
        ({"fp16": True}, True, True, False),
    ],
)
def test_bits_and_checkpointing_follow_the_device(
    train: dict[str, bool], on_cpu: bool, half: bool, checkpointing: bool
) -> None:
    load = workload("sft", train, on_cpu=on_cpu)
    assert (load.half, load.checkpointing) == (half, checkpointing)
