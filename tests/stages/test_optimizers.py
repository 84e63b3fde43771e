"""Optimizers with states in 8 bits, and paged ones. Tensors of at most 4096 numbers keep 32 bits."""

from typing import Any

import pytest
import torch

from tests.tiny_stages import Interrupted, TinyStages, equal

# Of the tiny model the embeddings and the output head are larger than 4096 numbers.
HEAD = (259, 32)
RATE: dict[str, Any] = {"learning_rate": 1e-3}


def states(stages: TinyStages, optim: str) -> tuple[Any, dict[tuple[int, ...], list[Any]]]:
    """An interrupted stage, and the states of its optimizer by shape."""
    job = stages.job("sft", checkpoint_every=2, optim=optim, **RATE)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    file = job.partial / "trainer" / "checkpoint-2" / "optimizer.pt"
    found: dict[tuple[int, ...], list[Any]] = {}
    for saved in torch.load(file, weights_only=True)["state"].values():
        state = saved["__bnb_optimizer_quant_state__"]
        found.setdefault(tuple(state["state1"].shape), []).append(state)
    return job, found


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "lion_8bit"])
def test_large_states_have_8_bits_and_an_interruption_changes_nothing(
    optim: str, stages: TinyStages
) -> None:
    job, found = states(stages, optim)
    names = ["state1"] if optim == "lion_8bit" else ["state1", "state2"]
    # transformers keeps the states of embeddings in 32 bits.
    embedding, head = found.pop(HEAD)
    for name in names:
        assert embedding[name].dtype == torch.float32
        assert head[name].dtype == torch.uint8
    assert {state["state1"].dtype for group in found.values() for state in group} == {torch.float32}
    whole = stages.train(stages.job("sft", optim=optim, **RATE))
    assert equal(stages.train(job).weights, whole.weights)


def test_32_bits_are_32_bits(stages: TinyStages) -> None:
    _, found = states(stages, "paged_adamw_32bit")
    assert {state["state1"].dtype for group in found.values() for state in group} == {torch.float32}


def test_paging_changes_no_number(stages: TinyStages) -> None:
    paged, plain = (
        stages.train(stages.job("sft", optim=optim, **RATE)).weights
        for optim in ("paged_adamw_8bit", "adamw_8bit")
    )
    assert equal(paged, plain)


def test_8_bits_are_not_32(stages: TinyStages) -> None:
    eight, whole = (
        stages.train(stages.job("sft", optim=optim, **RATE)).weights["lm_head.weight"]
        for optim in ("adamw_8bit", "adamw_torch")
    )
    assert not eight.equal(whole)
    torch.testing.assert_close(eight, whole, rtol=0, atol=4 * 2e-3)


def test_a_stage_trains_as_if_it_were_alone_in_its_process(stages: TinyStages) -> None:
    """A manager that is there once for all would take its weights for those of the stage before."""

    def head() -> dict[str, Any]:
        hooks = {"freeze": {"train": ["lm_head"]}}
        job = stages.job("sft", hooks, optim="adamw_8bit", **RATE)
        return stages.train(job).weights

    alone = head()
    from bitsandbytes.optim import GlobalOptimManager

    assert not GlobalOptimManager.get_instance().module_weight_config_triple  # holds no model
    stages.train(stages.job("sft", optim="adamw_8bit", **RATE))
    assert not GlobalOptimManager.get_instance().index2config
    assert equal(head(), alone)
