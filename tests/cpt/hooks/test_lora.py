"""One adapter per stage: a no-op when fresh, merged exactly, kept apart when asked."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from cpt import manifest
from cpt.adapters import weights
from cpt.checkpoint import load_model
from cpt.errors import EdgeError, HookError, RecipeError, StoreError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.hooks.lora import Lora
from cpt.ids import sha256_file
from cpt.past import of_folder
from cpt.world import World
from tests.tiny_stages import Interrupted, TinyStages, Trained, difference, equal, weights_of

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")
IDS = torch.arange(10, 40)[None]


def logits(model: Any) -> torch.Tensor:
    """Of one sequence, without dropout."""
    model.eval()
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def randomised(model: Any, settings: dict[str, Any]) -> Any:
    """An adapter that has learnt something."""
    adapted = Lora(**settings).adapt(model, CTX)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fresh_adapter_is_a_no_op_to_the_bit(dropout: float, tiny_model: Any) -> None:
    before = logits(tiny_model)
    adapted = Lora(rank=4, dropout=dropout).adapt(tiny_model, CTX)
    assert logits(adapted).equal(before)


def test_only_the_adapter_trains(tiny_model: Any) -> None:
    adapted = Lora(rank=4).adapt(tiny_model, CTX)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    # 2 layers of 7 linear modules, two factors each; not the output head.
    assert len(names) == 2 * 7 * 2


@pytest.mark.parametrize("rank", [1, 3])
def test_merged_weights_are_the_closed_form(rank: int, tiny_model: Any) -> None:
    before = {name: p.detach().clone() for name, p in tiny_model.named_parameters()}
    adapted = randomised(tiny_model, {"rank": rank, "alpha": 5.0})
    factors = {name: p.detach().double() for name, p in adapted.named_parameters()}
    merged = dict(Lora(rank=rank, alpha=5.0).merge(adapted, CTX).named_parameters())
    assert merged.keys() == before.keys()
    for name, weight in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (factors.get(f"{stem}.lora_{part}.default.weight") for part in "AB")
        expected = weight.double()
        if a is not None and b is not None:
            expected = expected + 5.0 / rank * b @ a
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-6, atol=1e-7)


def test_merged_and_unmerged_logits_agree(tiny_model: Any) -> None:
    adapted = randomised(tiny_model, {"rank": 4})
    unmerged = logits(adapted)
    merged = logits(Lora(rank=4).merge(adapted, CTX))
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-5)


def test_with_the_adapter_off_the_weights_below_are_untouched(tiny_model: Any) -> None:
    before = logits(tiny_model)
    adapted: Any = randomised(tiny_model, {"rank": 4})
    assert not logits(adapted).equal(before)
    with adapted.disable_adapter():
        assert logits(adapted).equal(before)


@pytest.fixture(scope="module", params=["sft", "dpo", "grpo"])
def trained(request: pytest.FixtureRequest, stages: TinyStages) -> Trained:
    """A stage of each kind with an adapter. DPO and GRPO add one of their own, the reference."""
    return stages.train(stages.job(request.param, {"lora": {"rank": 2}}))


def test_the_adapter_folder_reproduces_the_checkpoint(trained: Trained, stages: TinyStages) -> None:
    from peft import PeftModel

    folder = trained.job.output
    below = load_model(str(stages.sft.output / "checkpoint"))
    adapted = PeftModel.from_pretrained(below, str(folder / "adapter"))
    merged = load_model(str(folder / "checkpoint"))
    torch.testing.assert_close(logits(adapted), logits(merged), rtol=1e-4, atol=1e-5)
    assert not logits(merged).equal(logits(load_model(str(stages.sft.output / "checkpoint"))))


def test_checkpoint_and_adapter_hold_nothing_else(trained: Trained, stages: TinyStages) -> None:
    folder = trained.job.output
    assert trained.weights.keys() == weights_of(stages.sft.output / "checkpoint").keys()
    names = {path.name for path in (folder / "adapter").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert not [*(folder / "checkpoint").glob("adapter*")]
    assert not hasattr(trained.model, "peft_config")
    # The adapter names what it lies on, for people and for peft.
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(stages.sft.output / "checkpoint")
    saved = json.loads((folder / "checkpoint" / "config.json").read_text())
    assert "peft" not in json.dumps(saved)


class TestAfter:
    def test_merge_lets_the_next_stage_start_from_the_merged_weights(
        self, stages: TinyStages
    ) -> None:
        first = stages.train(stages.job("sft", {"lora": {"rank": 2}}))
        second = stages.train(stages.job("sft", parent=first.job.output, learning_rate=0.0))
        assert equal(second.weights, first.weights)

    def test_keep_lets_the_next_stage_start_from_the_weights_below(
        self, stages: TinyStages
    ) -> None:
        first = stages.train(stages.job("sft", {"lora": {"rank": 2, "after": "keep"}}))
        below = weights_of(stages.sft.output / "checkpoint")
        # Its own checkpoint opens alone, adapter and all ...
        assert difference(first.weights, below) > 1e-4
        # ... and the next stage, and the one after that, start below it.
        parent = first.job.output
        for _ in range(2):
            job = stages.job(
                "sft", {"lora": {"rank": 2, "after": "keep"}}, parent=parent, learning_rate=0.0
            )
            assert equal(stages.train(job).weights, below)
            parent = job.output
        plain = stages.train(stages.job("sft", parent=parent, learning_rate=0.0))
        assert equal(plain.weights, below)
        assert [stage.name for stage in of_folder(parent)] == [
            "base",
            "pretrain",
            "sft",
            "sft",
            "sft",
            "sft",
        ]

    def test_the_two_train_the_same_weights(self, stages: TinyStages) -> None:
        merge, keep = (
            stages.train(stages.job("sft", {"lora": {"rank": 2, "after": after}})).weights
            for after in ("merge", "keep")
        )
        assert equal(merge, keep)


KEEP = {"lora": {"rank": 2, "after": "keep"}}
CONTINUE = {"lora": {"rank": 2, "after": "continue"}}


@pytest.fixture(scope="module")
def kept(stages: TinyStages) -> Trained:
    """A stage whose adapter others train on."""
    return stages.train(stages.job("sft", KEEP))


class TestContinue:
    """A stage that trains the adapter of its parent on, above the same weights."""

    def test_it_begins_as_the_parent_ended(self, stages: TinyStages, kept: Trained) -> None:
        job = stages.job("sft", CONTINUE, parent=kept.job.output, learning_rate=0.0)
        trained = stages.train(job)
        assert equal(trained.weights, kept.weights)
        own, theirs = (weights(folder / "adapter") for folder in (job.output, kept.job.output))
        assert equal(own, theirs)
        below = stages.sft.output / "checkpoint"
        assert (job.output / trained.manifest["start"]).resolve() == below.resolve()

    def test_it_trains_the_adapter_and_nothing_below(
        self, stages: TinyStages, kept: Trained
    ) -> None:
        from peft import PeftModel

        trained = stages.train(stages.job("sft", CONTINUE, parent=kept.job.output))
        own = weights(trained.job.output / "adapter")
        assert difference(own, weights(kept.job.output / "adapter")) > 1e-3
        below = load_model(str(stages.sft.output / "checkpoint"))
        adapted = PeftModel.from_pretrained(below, str(trained.job.output / "adapter"))
        merged = load_model(str(trained.job.output / "checkpoint"))
        torch.testing.assert_close(logits(adapted), logits(merged), rtol=1e-4, atol=1e-5)

    def test_keep_continue_continue_merge(self, stages: TinyStages, kept: Trained) -> None:
        below = weights_of(stages.sft.output / "checkpoint")
        parent = kept.job.output
        for _ in range(2):
            parent = stages.train(stages.job("sft", CONTINUE, parent=parent)).job.output
        # A new adapter starts below, as after keep; merged, it is what later stages start from.
        job = stages.job("sft", {"lora": {"rank": 3}}, parent=parent, learning_rate=0.0)
        merged = stages.train(job)
        assert equal(merged.weights, below)
        assert merged.manifest["start"] == "checkpoint"
        plain = stages.train(stages.job("sft", parent=job.output, learning_rate=0.0))
        assert equal(plain.weights, below)

    def test_interrupted_equals_uninterrupted(self, stages: TinyStages, kept: Trained) -> None:
        whole = stages.train(stages.job("sft", CONTINUE, parent=kept.job.output))
        job = stages.job("sft", CONTINUE, parent=kept.job.output, checkpoint_every=2)
        with pytest.raises(Interrupted):
            stages.train(job, interrupt_at=3)
        assert equal(stages.train(job).weights, whole.weights)

    @pytest.mark.parametrize("kind", ["dpo", "grpo"])
    def test_the_reference_is_the_parent_with_its_adapter(
        self, kind: str, stages: TinyStages, kept: Trained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import stages.under_way as under_way

        monkeypatch.setattr(under_way, "NUM_SAMPLES", 3)
        trained = stages.train(stages.job(kind, CONTINUE, parent=kept.job.output, max_steps=2))
        assert trained.manifest["checks"]["kl_to_reference_at_start"] == pytest.approx(0, abs=1e-6)
        first, second = ([row for row in trained.log if "loss" in row])[:2]
        if kind == "dpo":
            assert first["loss"] == pytest.approx(math.log(2), rel=1e-6)
            assert second["loss"] != pytest.approx(math.log(2), rel=1e-6)
        else:
            assert first["kl"] == pytest.approx(0, abs=1e-6)
        assert not equal(trained.weights, kept.weights)

    def test_another_reference_than_the_parent_is_refused(
        self, stages: TinyStages, kept: Trained
    ) -> None:
        below = stages.sft.output
        job = stages.job("dpo", CONTINUE, parent=kept.job.output, reference=below)
        with pytest.raises(EdgeError, match=r"what the stage starts from"):
            stages.train(job)

    def test_kl_to_the_parent_is_not_that_to_the_weights_below(
        self, stages: TinyStages, kept: Trained
    ) -> None:
        def first(of: str) -> float:
            hooks = {**CONTINUE, "kl": {"of": of, "beta": 1.0}}
            job = stages.job("sft", hooks, parent=kept.job.output, max_steps=1)
            return stages.train(job).log[0]["hook/kl"]

        assert first("previous") == pytest.approx(0, abs=1e-7)
        assert first("pretrain") > 1e-4

    def test_an_average_is_continued_as_it_was_merged(self, stages: TinyStages) -> None:
        job = stages.job("sft", {**KEEP, "ema": {"decay": 0.5}})
        averaged = stages.train(job)
        again = stages.job("sft", CONTINUE, parent=job.output, learning_rate=0.0)
        assert equal(stages.train(again).weights, averaged.weights)

    @pytest.mark.parametrize(
        ("parent", "message"),
        [
            (None, "sft trained no adapter"),
            ({"lora": {"rank": 2}}, "sft merged its adapter into the weights"),
            ({"lora": {"rank": 3, "after": "keep"}}, "sft trained an adapter of rank 3, not 2"),
        ],
    )
    def test_what_cannot_be_continued_is_refused(
        self, parent: Any, message: str, stages: TinyStages
    ) -> None:
        before = stages.train(stages.job("sft", parent, max_steps=1)).job.output
        with pytest.raises(HookError, match=f"lora: after: continue: {message}"):
            stages.train(stages.job("sft", CONTINUE, parent=before))

    def test_an_adapter_that_was_changed_is_refused(self, stages: TinyStages) -> None:
        from safetensors.torch import load_file, save_file

        job = stages.job("sft", KEEP, max_steps=1)
        folder = stages.train(job).job.output
        file = folder / "adapter" / "adapter_model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "lora_B" in name)
        save_file(tensors | {name: tensors[name] + 0.1}, file)
        with pytest.raises(StoreError, match=r"adapter_model\.safetensors: is damaged"):
            stages.train(stages.job("sft", CONTINUE, parent=folder))
        # Its manifest may say so too, of a stage that a person has changed.
        entry = manifest.read(folder)
        files = {**entry.files, "adapter/adapter_model.safetensors": sha256_file(file)}
        replace(entry, files=files).write(folder)
        with pytest.raises(HookError, match=r"does not give .* of .*: one of them was changed"):
            stages.train(stages.job("sft", CONTINUE, parent=folder))


class TestTargets:
    @pytest.mark.parametrize(
        "targets", ["q_proj", ["q_proj"], ["self_attn.q_proj"], ["model.layers.0.mlp.up_proj"]]
    )
    def test_a_name_or_a_list_of_names(self, targets: Any, tiny_model: Any) -> None:
        adapted = Lora(rank=2, targets=targets).adapt(tiny_model, CTX)
        word = (targets if isinstance(targets, str) else targets[0]).rpartition(".")[2]
        names = [name for name, p in adapted.named_parameters() if p.requires_grad]
        assert names
        assert all(f".{word}.lora_" in name for name in names)

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            (["q_prj"], "'q_prj' matches no module; the model has: down_proj, gate_proj, k_proj"),
            ("q_prj", "'q_prj' matches no module"),
            (["q_proj", "nope"], "'nope' matches no module"),
            (["lm_head"], "'lm_head' is the output head"),
            (["embed_tokens"], "'embed_tokens' is no linear layer but a Embedding"),
            (["input_layernorm"], "'input_layernorm' is no linear layer but a LlamaRMSNorm"),
            (["self_attn"], "'self_attn' is no linear layer but a LlamaAttention"),
        ],
    )
    def test_what_cannot_carry_an_adapter_is_refused(
        self, targets: Any, message: str, tiny_model: Any
    ) -> None:
        with pytest.raises(HookError, match=message):
            Lora(rank=2, targets=targets).adapt(tiny_model, CTX)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: input should be greater than or equal to 1"),
        ({"alpha": 0}, "alpha: input should be greater than 0"),
        ({"alpha": float("inf")}, "alpha: input should be a finite number"),
        ({"dropout": 1.0}, "dropout: input should be less than 1"),
        ({"dropout": -0.1}, "dropout: input should be greater than or equal to 0"),
        ({"after": "stay"}, "after: input should be 'merge', 'keep' or 'continue'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        table.build("lora", settings, "sft.yaml")
