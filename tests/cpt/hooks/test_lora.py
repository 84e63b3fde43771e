"""One adapter per stage: a no-op when fresh, merged exactly, kept apart when asked."""

import json
from typing import Any

import pytest
import torch

from cpt.checkpoint import load_model
from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.base import StageContext
from cpt.hooks.lora import Lora
from cpt.past import of_folder
from cpt.world import World
from tests.tiny_stages import TinyStages, Trained, difference, equal, weights_of

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
        ({"after": "stay"}, "after: input should be 'merge' or 'keep'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        table.build("lora", settings, "sft.yaml")
