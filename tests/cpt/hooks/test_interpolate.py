"""WiSE-FT against its closed form."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cpt.checkpoint import load_model
from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.hooks.interpolate import Interpolate
from cpt.past import Past, PastStage
from cpt.world import World
from tests.tiny_stages import TinyStages, difference, equal, weights_of

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")


def past(folder: Path) -> Past:
    """A past of one checkpoint folder."""
    return Past((PastStage("base", "base", "base", None, str(folder)),))


def blended(alpha: float, model: Any, earlier: Path) -> Any:
    """What the hook makes of a model."""
    hook = Interpolate(of="previous", alpha=alpha)
    hook.recall(past(earlier), CTX)
    return hook.merge(model, CTX)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.7])
def test_a_trained_stage_is_the_closed_form(alpha: float, stages: TinyStages) -> None:
    plain = stages.train(stages.job("sft")).weights
    got = stages.train(stages.job("sft", {"interpolate": {"of": "base", "alpha": alpha}})).weights
    earlier = weights_of(stages.base / "checkpoint")
    for name in plain:
        expected = (1 - alpha) * earlier[name].double() + alpha * plain[name].double()
        torch.testing.assert_close(got[name].double(), expected, rtol=1e-6, atol=1e-7)


def test_alpha_0_is_the_earlier_stage_to_the_bit(stages: TinyStages) -> None:
    job = stages.job("sft", {"interpolate": {"of": "pretrain", "alpha": 0}})
    assert equal(stages.train(job).weights, weights_of(stages.pretrain.output / "checkpoint"))


def test_alpha_1_is_what_was_trained_to_the_bit(stages: TinyStages) -> None:
    model = load_model(str(stages.sft.output / "checkpoint"))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    assert equal(dict(blended(1.0, model, stages.base / "checkpoint").state_dict()), before)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_blend_of_equals_is_the_same(alpha: float, stages: TinyStages) -> None:
    folder = stages.sft.output / "checkpoint"
    merged = blended(alpha, load_model(str(folder)), folder)
    assert difference(dict(merged.state_dict()), dict(load_model(str(folder)).state_dict())) < 2e-7


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models whose head is their embedding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tied")
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(folder / str(seed))
    return folder / "0", folder / "1"


def test_tied_tensors_are_blended_once(tied: tuple[Path, Path]) -> None:
    ours, theirs = (load_model(str(folder)) for folder in tied)
    one = ours.get_input_embeddings().weight.detach().clone()
    other = theirs.get_input_embeddings().weight.detach().clone()
    model: Any = blended(0.25, ours, tied[1])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(model.lm_head.weight.detach(), 0.75 * other + 0.25 * one)


def test_bf16_is_blended_in_fp32(tied: tuple[Path, Path]) -> None:
    ours, theirs = (load_model(str(folder), dtype="bfloat16") for folder in tied)
    name = "model.layers.0.mlp.up_proj.weight"
    one, other = (m.get_parameter(name).detach().clone() for m in (ours, theirs))
    got = blended(0.3, ours, tied[1]).get_parameter(name).detach()
    assert got.equal((0.7 * other.float() + 0.3 * one.float()).bfloat16())


class TestRefusals:
    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
    def test_alpha_out_of_range(self, alpha: float) -> None:
        with pytest.raises(RecipeError, match=r"hooks.interpolate: alpha: input should be"):
            table.build("interpolate", {"alpha": alpha}, "sft.yaml")

    def test_several_stages_at_once(self) -> None:
        with pytest.raises(RecipeError, match=r"`of` names one earlier stage"):
            table.build("interpolate", {"of": "all"}, "sft.yaml")

    def test_a_stage_that_is_not_there_before_anything_is_trained(self, stages: TinyStages) -> None:
        job = stages.job("sft", {"interpolate": {"of": "pretain"}})
        with pytest.raises(HookError, match=r"no earlier stage 'pretain'; did you mean 'pretrain'"):
            stages.train(job)
        assert not (job.partial / "trained").exists()

    def test_other_shapes_and_other_tensors(
        self, stages: TinyStages, tied: tuple[Path, Path]
    ) -> None:
        model = load_model(str(stages.base / "checkpoint"))
        with pytest.raises(HookError, match=r"base and sft differ in '.*'; they do not blend"):
            blended(0.5, model, tied[0])
