"""What makes large models fit does what it says: 16-bit computing, recomputed activations, attention."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cpt.errors import PlanError, StoreError
from tests.tiny_stages import TinyStages, difference, equal


class Seen:
    """Forward passes of feed-forward layers while training, what comes out of them, and attention's kind."""

    def __init__(self) -> None:
        self.calls = 0
        self.types: list[Any] = []
        self.kinds: set[str] = set()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP

    found, mlp, attention = Seen(), LlamaMLP.forward, LlamaAttention.forward

    def watched(module: Any, hidden: Any) -> Any:
        found.calls += module.training
        made = mlp(module, hidden)  # does not return where it is computed again for what it saves
        if module.training:
            found.types.append(made.dtype)
        return made

    def attended(module: Any, *args: Any, **kwargs: Any) -> Any:
        found.kinds.add(module.config._attn_implementation)
        return attention(module, *args, **kwargs)

    monkeypatch.setattr(LlamaMLP, "forward", watched)
    monkeypatch.setattr(LlamaAttention, "forward", attended)
    return found


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_bf16_computes_in_16_bits_and_keeps_32(kind: str, stages: TinyStages, seen: Seen) -> None:
    whole = stages.train(stages.job(kind, learning_rate=0.05))
    assert set(seen.types) == {torch.float32}
    seen.types.clear()
    half = stages.train(stages.job(kind, learning_rate=0.05, bf16=True))
    assert set(seen.types) == {torch.bfloat16}
    assert {value.dtype for value in half.weights.values()} == {torch.float32}
    assert 0 < difference(half.weights, whole.weights) < 0.02


def test_a_chain_in_16_bits_leaves_16_bits(stages: TinyStages, seen: Seen) -> None:
    job = replace(stages.job("sft", learning_rate=0.05), load={"dtype": "bfloat16"})
    done = stages.train(job)
    assert set(seen.types) == {torch.bfloat16}
    assert {value.dtype for value in done.weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("hooks", [None, {"lora": {"rank": 2}}])
def test_checkpointing_computes_twice_and_changes_no_number(
    hooks: Any, stages: TinyStages, seen: Seen
) -> None:
    plain = stages.train(stages.job("sft", hooks, activation_checkpointing=False))
    once, seen.calls = seen.calls, 0
    again = stages.train(stages.job("sft", hooks, activation_checkpointing=True))
    assert seen.calls == 2 * once
    assert equal(again.weights, plain.weights)


def test_attention_is_the_one_that_was_asked_for(stages: TinyStages, seen: Seen) -> None:
    found = {}
    for kind in ("eager", "sdpa"):
        seen.kinds.clear()
        done = stages.train(replace(stages.job("sft"), load={"attention": kind}))
        assert seen.kinds == {kind}
        found[kind] = done.weights
    assert difference(found["eager"], found["sdpa"]) < 1e-5


def test_a_kernel_that_is_not_here_is_refused_before_the_weights(stages: TinyStages) -> None:
    job = replace(stages.job("sft"), load={"attention": "flash_attention_2"})
    with pytest.raises(StoreError, match=r"(?i)cannot be loaded .*flash"):
        stages.train(job)


def test_numbers_that_this_machine_has_not_are_refused_before_the_weights(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.under_way as under_way

    def load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(under_way, "open_start", load)
    with pytest.raises(PlanError, match=r"train: SFTConfig refuses its settings: .*bf16"):
        stages.train(stages.job("sft", fp16=True, bf16=True))
