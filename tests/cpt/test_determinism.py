"""Deterministic mode: on while a stage is made, off after it; what has no deterministic kernel is named."""

import os

import pytest
import torch

from cpt import determinism
from cpt.determinism import deterministic, set_variables
from cpt.errors import PlanError


def settings() -> tuple[bool, bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
    )


@pytest.mark.parametrize("before", [(False, False, False, True), (True, True, False, False)])
def test_settings_hold_inside_and_come_back(before: tuple[bool, bool, bool, bool]) -> None:
    outside = settings()
    cudnn = torch.backends.cudnn
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]
        with deterministic(False, "sft"):
            assert settings() == before
        inside = []
        with pytest.raises(ZeroDivisionError), deterministic(True, "sft"):
            inside.append((settings(), 1 / 0))
        with deterministic(True, "sft"):
            assert settings() == (True, False, True, False)
        assert not inside
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(outside[0], warn_only=outside[1])
        cudnn.deterministic, cudnn.benchmark = outside[2:]


def test_an_operation_without_a_deterministic_kernel_is_named() -> None:
    pooled, where = torch.nn.functional.max_pool1d(torch.rand(1, 1, 4), 2, return_indices=True)
    torch.nn.functional.max_unpool1d(pooled, where, [2])
    message = r"sft: deterministic: max_unpooling2d\S* has no deterministic kernel on this device"
    with pytest.raises(PlanError, match=message), deterministic(True, "sft"):
        torch.nn.functional.max_unpool1d(pooled, where, [2])


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot"), deterministic(True, "sft"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_value_that_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in determinism.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    set_variables()
    found = {name: os.environ[name] for name in determinism.VARIABLES}
    assert found == {**determinism.VARIABLES, "NCCL_ALGO": "Tree"}
    for name in determinism.VARIABLES:  # monkeypatch restores what it knows of
        monkeypatch.delenv(name)
