"""Stages that train an adapter above 4-bit weights, and what they leave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt import quantised
from cpt.adapters import collect, open_registry, weights
from cpt.checkpoint import load_model
from cpt.errors import HookError, StoreError
from cpt.hooks.quantised_merge import LIMITS
from cpt.quantised import Quantisation
from stages import run as runner
from stages.candidates import kept, write_candidate
from tests.tiny_stages import Interrupted, TinyStages, Trained, difference, equal, weights_of

NF4 = {"rank": 2, "quantise": "nf4", "compute": "float32"}
HELD = Quantisation("nf4", True, "float32")
KEEP, CONTINUE = {**NF4, "after": "keep"}, {**NF4, "after": "continue"}


def lora(stages: TinyStages, kind: str = "sft", of: Any = NF4, **settings: Any) -> Any:
    return stages.job(kind, {"lora": of}, **settings)


def expected(start: Path, adapter: Path) -> dict[str, Any]:
    """W_q + (alpha / rank) B A from what lies on the disk."""
    below = quantised.merged(load_model(str(start), quantise=HELD), torch.float32)
    found = {name: value.detach().clone() for name, value in below.named_parameters()}
    factors = weights(adapter)
    for name, value in found.items():
        stem = name.removesuffix(".weight")
        a, b = (factors.get(f"{stem}.lora_{part}.default.weight") for part in "AB")
        if a is not None and b is not None:
            found[name] = value + 32.0 / 2 * b @ a
    return found


@pytest.fixture(scope="module", params=["sft", "pretrain", "dpo", "grpo"])
def trained(request: pytest.FixtureRequest, stages: TinyStages) -> Trained:
    return stages.train(lora(stages, request.param))


def test_the_checkpoint_is_what_was_trained(trained: Trained, stages: TinyStages) -> None:
    start, folder = stages.sft.output / "checkpoint", trained.job.output
    assert difference(trained.weights, expected(start, folder / "adapter")) < 1e-6
    assert trained.weights.keys() == weights_of(start).keys()
    checks = trained.manifest["checks"]
    assert abs(checks["merge_kl"]) < 1e-10
    # Neither the parent nor the merge into the parent's weights is what was trained.
    assert checks["quantisation_kl"] > 1e-8
    assert checks["naive_merge_kl"] > 1e-8


def test_it_is_told(trained: Trained) -> None:
    before, merged = [note for note in trained.manifest["notes"] if note.startswith("quantise")]
    assert "trained on nf4 weights, at a KL of" in before
    assert "where the adapter turned off is a reference, it is the 4-bit weights" in before
    assert "merged into the 4-bit weights" in merged


def test_the_adapter_trained_in_32_bits(trained: Trained) -> None:
    factors = weights(trained.job.output / "adapter").values()
    assert {value.dtype for value in factors} == {torch.float32}
    # TRL would have rounded what it began with, too.
    assert not all(value.equal(value.bfloat16().float()) for value in factors)


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
def test_the_reference_is_the_quantised_parent(
    kind: str, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.under_way as under_way

    monkeypatch.setattr(under_way, "NUM_SAMPLES", 3)
    done = stages.train(lora(stages, kind, max_steps=1))
    assert done.manifest["checks"]["kl_to_reference_at_start"] == pytest.approx(0, abs=1e-6)
    assert done.manifest["checks"]["quantisation_kl"] > 1e-8


def test_the_adapter_off_is_the_quantised_parent(stages: TinyStages) -> None:
    hooks = {"lora": NF4, "kl": {"of": "previous", "beta": 1.0}}
    log = stages.train(stages.job("sft", hooks, max_steps=2)).log
    assert log[0]["hook/kl"] == pytest.approx(0, abs=1e-7)
    assert log[1]["hook/kl"] > 0


def test_what_is_trained_on_is_not_the_parent(stages: TinyStages) -> None:
    """Plain LoRA with the same seeds and rows has another first loss."""
    whole, held = (
        stages.train(lora(stages, of=of, max_steps=1)).log[0]["loss"] for of in ({"rank": 2}, NF4)
    )
    assert whole != held
    assert whole == pytest.approx(held, rel=0.1)


@pytest.fixture(scope="module")
def whole(stages: TinyStages) -> Trained:
    """A stage that nothing interrupts."""
    return stages.train(lora(stages))


class TestInterrupted:
    def test_while_it_trains(self, stages: TinyStages, whole: Trained) -> None:
        job = lora(stages, checkpoint_every=2)
        with pytest.raises(Interrupted):
            stages.train(job, interrupt_at=3)
        done = stages.train(job)
        assert equal(done.weights, whole.weights)
        for name in ("quantisation_kl", "merge_kl", "naive_merge_kl"):
            assert done.manifest["checks"][name] == whole.manifest["checks"][name]

    def test_before_the_merge(
        self, stages: TinyStages, whole: Trained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any) -> None:
            raise Interrupted

        job = lora(stages)
        with monkeypatch.context() as patched:
            patched.setattr(runner, "merge", stop)
            with pytest.raises(Interrupted):
                stages.train(job)
        left = weights_of(job.partial / "trained").values()
        assert all(value.is_floating_point() for value in left)  # codes are made anew
        assert equal(stages.train(job).weights, whole.weights)


class TestAfter:
    def test_keep_lets_the_next_stage_start_from_whole_weights(self, stages: TinyStages) -> None:
        job = lora(stages, of=KEEP)
        below = stages.sft.output / "checkpoint"
        done = stages.train(job)
        assert difference(done.weights, expected(below, job.output / "adapter")) < 1e-6
        plain = stages.train(stages.job("sft", parent=job.output, learning_rate=0.0))
        assert equal(plain.weights, weights_of(below))

    def test_merge_lets_the_next_stage_start_from_what_was_trained(
        self, stages: TinyStages
    ) -> None:
        first = stages.train(lora(stages))
        second = stages.train(stages.job("sft", parent=first.job.output, learning_rate=0.0))
        assert equal(second.weights, first.weights)

    def test_continue_begins_as_the_parent_ended(self, stages: TinyStages) -> None:
        first = stages.train(lora(stages, of=KEEP))
        job = lora(stages, of=CONTINUE, parent=first.job.output, learning_rate=0.0)
        second = stages.train(job)
        assert equal(second.weights, first.weights)
        assert equal(weights(job.output / "adapter"), weights(first.job.output / "adapter"))
        below = stages.sft.output / "checkpoint"
        assert (job.output / second.manifest["start"]).resolve() == below.resolve()

    @pytest.mark.parametrize(
        ("of", "message"),
        [
            ({"rank": 2, "after": "continue"}, "an adapter of quantise nf4, not None"),
            ({**CONTINUE, "double": False}, "an adapter of double True, not False"),
        ],
    )
    def test_continue_on_other_weights_is_refused(
        self, of: dict[str, Any], message: str, stages: TinyStages
    ) -> None:
        first = stages.train(lora(stages, of=KEEP))
        with pytest.raises(HookError, match=message):
            stages.train(lora(stages, of=of, parent=first.job.output))

    def test_whole_weights_cannot_be_continued_in_4_bits(self, stages: TinyStages) -> None:
        first = stages.train(lora(stages, of={"rank": 2, "after": "keep"}))
        with pytest.raises(HookError, match="an adapter of quantise None, not nf4"):
            stages.train(lora(stages, of=CONTINUE, parent=first.job.output))


def test_a_candidate_is_what_a_shorter_stage_would_be(stages: TinyStages, tmp_path: Path) -> None:
    constant: dict[str, Any] = {"lr_scheduler_type": "constant"}
    done = stages.train(replace(lora(stages, checkpoint_every=1, **constant), candidates=3))
    short = stages.train(lora(stages, max_steps=2, **constant))
    start = str(stages.sft.output / "checkpoint")
    write_candidate(kept(done.job.output)[2], done.job.output / "checkpoint", start, tmp_path, {})
    assert equal(weights_of(tmp_path), short.weights)


def test_a_merge_that_is_not_what_was_trained_stops_the_stage(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the merge of another program, into the weights before quantisation."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    def naive(model: Any, dtype: Any) -> Any:
        below = load_model(str(stages.sft.output / "checkpoint"))
        other: Any = get_peft_model(below, model.peft_config["default"])
        set_peft_model_state_dict(other, get_peft_model_state_dict(model))
        return other.merge_and_unload()

    monkeypatch.setattr(quantised, "merged", naive)
    job = lora(stages)
    with pytest.raises(HookError, match=r"lora: quantise: the merged model is not the one"):
        stages.train(job)
    assert not (job.partial / "checkpoint").exists()


def test_other_types_merge_within_their_rounding(stages: TinyStages) -> None:
    half = stages.train(lora(stages, of={"rank": 2, "quantise": "fp4", "double": False}))
    checks = half.manifest["checks"]
    assert checks["merge_kl"] < checks["naive_merge_kl"]
    job = replace(lora(stages, of={"rank": 2, "quantise": "nf4"}), load={"dtype": "bfloat16"})
    whole = stages.train(job)
    assert {value.dtype for value in whole.weights.values()} == {torch.bfloat16}
    assert abs(whole.manifest["checks"]["merge_kl"]) < LIMITS["bfloat16"]


def test_averages_and_blends_act_on_what_is_trained_and_merged(stages: TinyStages) -> None:
    hooks = {"lora": NF4, "ema": {"decay": 0.5}, "interpolate": {"of": "base", "alpha": 0.5}}
    done = stages.train(stages.job("sft", hooks))
    base = weights_of(stages.base / "checkpoint")
    own = expected(stages.sft.output / "checkpoint", done.job.output / "adapter")
    blend = {name: 0.5 * base[name] + 0.5 * own[name] for name in own}
    assert difference(done.weights, blend) < 1e-6


class TestRegistry:
    def test_adapters_are_served_on_what_they_were_trained_on(
        self, stages: TinyStages, tmp_path: Path
    ) -> None:
        done = stages.train(lora(stages, of=KEEP))
        collect([("one", done.job.output)], tmp_path / "adapters")
        registry = open_registry(tmp_path / "adapters")
        ids = torch.arange(10, 40)[None]
        with torch.no_grad():
            served = registry.activate("one")(input_ids=ids).logits
            merged = registry.merged("one")(input_ids=ids).logits
            alone = load_model(str(done.job.output / "checkpoint"))(input_ids=ids).logits
        torch.testing.assert_close(served, alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(merged, alone, rtol=0, atol=1e-5)

    def test_not_beside_those_of_whole_weights(self, stages: TinyStages, tmp_path: Path) -> None:
        one, two = (
            stages.train(lora(stages, of=of)).job.output
            for of in (KEEP, {"rank": 2, "after": "keep"})
        )
        with pytest.raises(StoreError, match=r"trained on whole weights, and those of .* 4 bits"):
            collect([("one", one), ("two", two)], tmp_path / "adapters")
