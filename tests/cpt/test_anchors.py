"""Any number of quadratic anchors in the memory of one, against the sum that they stand for."""

import pytest
import torch
from torch import Tensor

from cpt.anchors import Anchors, normalised
from cpt.errors import HookError


def tensors(seed: int, low: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 4), "b": (5,)}
    return {
        n: torch.rand(s, generator=generator, dtype=torch.float64).float() + low
        for n, s in shapes.items()
    }


@pytest.mark.parametrize("weighted", [True, False])
def test_three_anchors_are_the_sum_of_their_penalties(weighted: bool) -> None:
    anchors, weights = Anchors(), {n: v.double().requires_grad_() for n, v in tensors(0).items()}
    penalty = torch.zeros((), dtype=torch.float64)
    for seed in (1, 2, 3):
        place, importance = tensors(seed, -0.5), tensors(seed + 10)
        anchors.add(place, importance if weighted else None)
        for name, value in weights.items():
            held = importance[name].double() if weighted else 1.0
            penalty = penalty + 0.5 * (held * (value - place[name]) ** 2).sum()
    torch.autograd.backward(penalty)
    total = anchors.rest
    for name, weight in weights.items():
        force, energy = anchors.pulled(name, weight.detach())
        torch.testing.assert_close(force.double(), weight.grad, rtol=1e-5, atol=1e-6)
        total += float(energy) / 2
    assert total == pytest.approx(float(penalty.detach()), rel=1e-6)


def test_two_anchors_pull_where_their_sum_pulls_and_not_where_the_newest_alone_would() -> None:
    """Pitfall F9: anchors 0 and 1 with importance 4 and 2; at 0.5 the gradient is +1, not -3."""
    anchors = Anchors()
    anchors.add({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])})
    anchors.add({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])})
    force, _ = anchors.pulled("w", torch.tensor([0.5]))
    assert force.tolist() == pytest.approx([1.0])


def test_no_cancellation_where_weights_are_large_and_hardly_moved() -> None:
    anchors = Anchors()
    for _ in range(2):
        anchors.add({"w": torch.tensor([1000.0])}, {"w": torch.tensor([3.0])})
    force, _ = anchors.pulled("w", torch.tensor([1000.0]) + 2**-10)
    assert force.item() == 6 * 2**-10


def test_weights_that_nobody_holds_important_are_free() -> None:
    anchors = Anchors()
    anchors.add({"w": torch.tensor([0.0])}, {"w": torch.tensor([0.0])})
    anchors.add({"w": torch.tensor([7.0])}, {"w": torch.tensor([0.0])})
    force, energy = anchors.pulled("w", torch.tensor([3.0]))
    assert force.item() == energy.item() == anchors.rest == 0
    anchors.add({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])})
    assert anchors.centre["w"].item() == 1.0


def test_stages_with_other_weights_do_not_add_up() -> None:
    anchors = Anchors()
    anchors.add({"w": torch.zeros(1)}, None)
    with pytest.raises(HookError, match="anchors differ in 'v'"):
        anchors.add({"v": torch.zeros(1)}, None)
    with pytest.raises(HookError, match="with and without an importance"):
        anchors.add({"w": torch.zeros(1)}, {"w": torch.ones(1)})


def test_normalised_importance_has_mean_1_over_all_weights() -> None:
    found = normalised({"a": torch.tensor([1.0, 3.0, 5.0]), "b": torch.tensor([[7.0]])})
    assert found["a"].tolist() == [0.25, 0.75, 1.25]
    assert found["b"].tolist() == [[1.75]]


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_importance_that_is_nowhere_or_everywhere_is_refused(value: float) -> None:
    with pytest.raises(HookError, match="mean importance"):
        normalised({"a": torch.tensor([value])})
