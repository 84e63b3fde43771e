"""Parameters are known by one name, whatever wraps the model."""

from typing import Any

import pytest
import torch
from torch import nn

from cpt.params import View, bare_name, trainable
from cpt.world import World

NAME = "model.layers.0.self_attn.q_proj.weight"


class Distributed(nn.Module):
    """What DDP does to names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    """What torch.compile does to names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        f"module.{NAME}",
        f"_orig_mod.{NAME}",
        f"_orig_mod.module.{NAME}",
        f"module._orig_mod.{NAME}",
        "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.weight",
        "model.layers.0._orig_mod.self_attn.q_proj.weight",
        f"base_model.model.{NAME}",
        f"module.base_model.model.{NAME}",
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
    ],
)
def test_what_wrappers_add_to_a_name_is_taken_off(name: str) -> None:
    assert bare_name(name) == NAME


def test_other_names_stay_as_they_are() -> None:
    for name in ("my_module.weight", "a.submodule.weight", "lm_head.weight", "model.norm.weight"):
        assert bare_name(name) == name


def test_wrapped_and_unwrapped_models_have_the_same_names(tiny_model: Any) -> None:
    names = [name for name, _ in trainable(tiny_model)]
    assert [name for name, _ in trainable(Distributed(tiny_model))] == names
    assert [name for name, _ in trainable(Distributed(Compiled(tiny_model)))] == names


def test_an_adapters_frozen_weights_keep_their_names(tiny_model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    before = {name for name, _ in tiny_model.named_parameters()}
    adapted = get_peft_model(tiny_model, LoraConfig(r=2, target_modules="all-linear"))
    after = {bare_name(name) for name, _ in adapted.named_parameters()}
    assert before <= after
    assert all("lora_" in name for name in after - before)
    assert {name for name, _ in trainable(adapted)} == after - before


def test_a_tied_tensor_comes_once() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embedding"].weight
    assert [name for name, _ in trainable(model)] == ["embedding.weight"]


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [name for name, _ in trainable(model)] == ["weight"]


def test_writing_into_a_view_writes_into_the_model() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    for _, weights, gradient in View(model, World()).shards():
        assert gradient is not None
        weights.fill_(2.0)
        gradient.fill_(3.0)
    assert all(bool((p == 2).all()) for p in model.parameters())
    assert all(p.grad is not None and bool((p.grad == 3).all()) for p in model.parameters())


def test_one_process_sums_nothing() -> None:
    assert float(View(nn.Linear(1, 1), World()).sum_(torch.tensor(2.0))) == 2.0
