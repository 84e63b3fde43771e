"""4-bit weights: which are held so, what they are when whole again, and what an adapter merges into."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt import quantised
from cpt.checkpoint import load_model
from cpt.errors import HookError
from cpt.hooks.lora import wrap
from cpt.hooks.quantised_merge import check_merge
from cpt.outputs import outputs
from cpt.quantised import Quantisation

NF4 = Quantisation("nf4", compute="float32")
IDS = torch.arange(10, 40)[None]


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def layers(model: Any) -> dict[str, Any]:
    return {name: part for name, part in model.named_modules() if quantised.is_quantised(part)}


def adapted(folder: Path, held: Quantisation) -> Any:
    """An adapter that has learnt something, above weights in 4 bits."""
    torch.manual_seed(0)
    model = wrap(load_model(str(folder), quantise=held), "lora", 2, 4.0, 0.0, "all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_all_linear_layers_but_the_head_are_held_in_4_bits(tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), quantise=NF4)
    found = layers(model)
    assert len(found) == 2 * 7
    assert "lm_head" not in found
    for layer in found.values():
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() * 2 == layer.in_features * layer.out_features
        # Or a forward pass in evaluation mode would leave the layer without a gradient on some CPUs.
        assert not layer.support_avx512bf16_for_cpu


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_whole_again_they_are_what_the_layer_multiplies_with(
    kind: Any, double: bool, tiny_folder: Path
) -> None:
    held = Quantisation(kind, double, "float32")
    model = load_model(str(tiny_folder), quantise=held)
    before = dict(load_model(str(tiny_folder)).named_parameters())
    for name, layer in layers(model).items():
        assert (layer.weight.quant_state.state2 is not None) == double
        whole = quantised.full(layer)
        assert whole.dtype == torch.float32
        torch.testing.assert_close(
            layer(torch.eye(layer.in_features)).T, whole, rtol=1e-6, atol=1e-7
        )
        error = (whole - before[f"{name}.weight"]).norm() / before[f"{name}.weight"].norm()
        assert 0.02 < error < 0.2, name


def test_the_same_weights_give_the_same_codes(tiny_folder: Path) -> None:
    one, two = (layers(load_model(str(tiny_folder), quantise=NF4)) for _ in range(2))
    assert all(quantised.full(one[name]).equal(quantised.full(two[name])) for name in one)


def test_merged_weights_are_the_closed_form(tiny_folder: Path) -> None:
    model = adapted(tiny_folder, NF4)
    plain = model.get_base_model()
    expected = {}
    for name, layer in plain.named_modules():
        if hasattr(layer, "lora_A"):
            a, b = (getattr(layer, f"lora_{part}")["default"].weight.double() for part in "AB")
            below = quantised.full(layer.get_base_layer()).double()
            expected[f"{name}.weight"] = (below + 4.0 / 2 * b @ a).detach()
    merged = dict(quantised.merged(model, torch.float32).named_parameters())
    assert len(expected) == 2 * 7
    assert merged.keys() == dict(load_model(str(tiny_folder)).named_parameters()).keys()
    for name, value in expected.items():
        torch.testing.assert_close(merged[name].double(), value, rtol=1e-6, atol=1e-7)


def test_merged_it_says_what_was_trained(tiny_folder: Path, tmp_path: Path) -> None:
    model = adapted(tiny_folder, NF4)
    trained = logits(model)
    merged = quantised.merged(model, torch.float32)
    torch.testing.assert_close(logits(merged), trained, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = load_model(str(tmp_path))
    assert not layers(again)
    assert logits(again).equal(logits(merged))


def test_without_an_adapter_it_is_what_the_weights_became(tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), quantise=NF4)
    before = logits(model)
    plain = quantised.merged(model, torch.float32)
    assert not layers(plain)
    torch.testing.assert_close(logits(plain), before, rtol=0, atol=1e-5)


def test_layers_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2's linear weights are [in, out]; in 4 bits they are [out, in]."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = adapted(tmp_path, NF4)
    trained = logits(model)
    merged = quantised.merged(model, torch.float32)
    torch.testing.assert_close(logits(merged), trained, rtol=0, atol=1e-5)
    expected = {name: p.shape for name, p in load_model(str(tmp_path)).named_parameters()}
    assert {name: p.shape for name, p in merged.named_parameters()} == expected


def test_a_weight_that_is_not_finite_is_refused(tiny_folder: Path) -> None:
    model = adapted(tiny_folder, NF4)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name)[0, 0] = torch.inf
    with pytest.raises(HookError, match=r"q_proj: W_q .* is not finite"):
        quantised.merged(model, torch.float32)


def test_a_model_of_which_nothing_would_be_quantised_is_refused(tiny_model: Any) -> None:
    with pytest.raises(HookError, match=r"here: quantise: the model has no linear layers"):
        quantised.settle(tiny_model, "here")


def test_kl_is_that_of_the_logits(tiny_folder: Path, tiny_model: Any) -> None:
    other = load_model(str(tiny_folder), quantise=NF4)
    tiny_model.train()
    rows = [list(range(10, 40)), [5, 6, 7]]
    kl = outputs(tiny_model, rows).kl(outputs(other, rows))
    assert tiny_model.training
    expected, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad():
            mine, theirs = (
                model.eval()(input_ids=ids).logits.double().log_softmax(-1)
                for model in (tiny_model, other)
            )
        expected += float((mine.exp() * (mine - theirs)).sum())
        count += len(row)
    assert kl == pytest.approx(expected / count, rel=1e-3)
    assert kl > 1e-6


def test_what_a_merge_must_keep() -> None:
    check_merge(1e-7, 0.0, ["float32"], "lora")
    check_merge(1e-3, 0.0, ["float32", "bfloat16"], "lora")
    check_merge(0.04, 3.2, ["bfloat16"], "lora")
    words = r"lora: .* KL 0\.01 .* at most 0\.005 .* quantisation: 0\.05"
    with pytest.raises(HookError, match=words):
        check_merge(1e-2, 0.05, ["float32", "bfloat16"], "lora")
    with pytest.raises(HookError, match="at most 1e-06 is rounding"):
        check_merge(2e-6, 1e-6, ["float32"], "lora")
    with pytest.raises(HookError, match="KL nan"):
        check_merge(float("nan"), 0.5, ["float32"], "lora")


def test_an_adapter_trains_in_its_own_numbers(tiny_folder: Path) -> None:
    model = adapted(tiny_folder, NF4)
    assert model.get_base_model().is_loaded_in_4bit
    quantised.keep_adapter_whole(model)
    assert not model.get_base_model().is_loaded_in_4bit
    assert copy.copy(model.get_base_model()).is_quantized
