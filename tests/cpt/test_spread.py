"""What is fetched, and what is left alone; `hooks/test_backends.py` compares what is trained."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cpt.errors import HookError
from cpt.spread import check_head, fetch, gathered, gathered_head, whole
from cpt.tokens import OutputHead


class Adapted(nn.Linear):
    """A head whose gradient is not that of a linear layer."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden)


def model(head: nn.Module) -> Any:
    config = SimpleNamespace(model_type="tiny")
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config, get_output_embeddings=lambda: head)


def test_a_head_that_is_not_linear_is_refused() -> None:
    check_head(model(nn.Linear(3, 5)), "sft")
    with pytest.raises(
        HookError, match=r"sft: .*output head is a Adapted.* use launch: ddp or zero2"
    ):
        check_head(model(Adapted(3, 5)), "sft")


def test_whole_models_are_left_alone() -> None:
    layer = nn.Linear(3, 5)
    before = layer.weight.data_ptr()
    head = OutputHead(model(layer))
    with whole(layer), whole(None), gathered(layer.parameters()), gathered_head(head):
        assert head(torch.ones(2, 3)).shape == (2, 5)
    with gathered_head(layer):  # any module is a head
        assert layer.weight.data_ptr() == before
    fetch(layer.parameters())
    assert layer.weight.data_ptr() == before


class Spread:
    """A layer in a group of its own, as FSDP2 leaves the head below an adapter."""

    def __init__(self, requires_grad: bool) -> None:
        self.calls: list[str] = []
        self.weight = SimpleNamespace(full_tensor=None, requires_grad=requires_grad)

    def unshard(self) -> None:
        self.calls.append("unshard")

    def reshard(self) -> None:
        self.calls.append("reshard")


@pytest.mark.parametrize("trained", [False, True])
def test_a_head_of_its_own_group_is_fetched_once(trained: bool) -> None:
    """And kept where it takes a gradient yet."""
    layer = Spread(trained)
    with gathered_head(SimpleNamespace(head=layer)):
        assert layer.calls == ["unshard"]
    assert layer.calls == ["unshard", *([] if trained else ["reshard"])]


class Parameter:
    """As much of a parameter under ZeRO-3 as is asked for."""

    def __init__(self) -> None:
        self.ds_id = 0
        self.fetched: list[Any] = []

    def all_gather(self, param_list: Any) -> None:
        self.fetched.append(param_list)


def test_what_takes_its_gradient_is_fetched_together() -> None:
    one, other = Parameter(), Parameter()
    fetch([one, nn.Parameter(torch.ones(1)), other])  # type: ignore[list-item]
    assert one.fetched == [[one, other]]
    assert other.fetched == []


def test_plain_gradient_descent_has_no_state() -> None:
    from cpt.hooks.trainer_checkpoints import _has_no_state

    weights = [nn.Parameter(torch.ones(2))]
    assert _has_no_state(torch.optim.SGD(weights, lr=0.1))
    assert _has_no_state(SimpleNamespace(optimizer=torch.optim.SGD(weights, lr=0.1)))
    assert not _has_no_state(torch.optim.SGD(weights, lr=0.1, momentum=0.9))
    assert not _has_no_state(torch.optim.AdamW(weights))
