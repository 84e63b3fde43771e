import pytest
import torch

from cpt.merging.task_vectors import disjoint_mean, drop_and_rescale, trim, weighted_sum
from cpt.merging.threshold import threshold_of

# The fixture of methods.md B12.
ONE = torch.tensor([3.0, -2, 0.1, 1, -0.2])
OTHER = torch.tensor([1.0, 4, 0.2, -3, 0.05])


def test_task_vectors_add_up() -> None:
    base = torch.tensor([1.0, 2, 0])
    one, other = torch.tensor([1.0, 4, 0]), torch.tensor([3.0, 2, 1])
    deltas = [one - base, other - base]
    both = base + weighted_sum(deltas, [1, 1])
    assert (both - base).equal(deltas[0] + deltas[1])
    forgotten = (base + weighted_sum(deltas[:1], [1])) + weighted_sum(deltas[:1], [-1])
    assert forgotten.equal(base)
    assert (base + weighted_sum(deltas[:1], [-1])).tolist() == [1, 0, 0]


def test_ties_step_by_step() -> None:
    trimmed = [trim(delta, threshold_of(delta, 0.6)) for delta in (ONE, OTHER)]
    assert trimmed[0].tolist() == [3, -2, 0, 1, 0]
    assert trimmed[1].tolist() == [1, 4, 0, -3, 0]
    assert disjoint_mean(trimmed, [1, 1]).tolist() == [2, 4, 0, -3, 0]


def test_where_nobody_wins_nothing_changes() -> None:
    deltas = [torch.tensor([3.0, 0, 2]), torch.tensor([-3.0, 0, 0])]
    assert disjoint_mean(deltas, [1, 1]).tolist() == [0, 0, 2]  # who is silent does not count
    flipped = disjoint_mean([-delta for delta in deltas], [1, 1])
    assert flipped.tolist() == [0, 0, -2]


def test_weights_decide_the_sign_and_the_mean() -> None:
    deltas = [torch.tensor([3.0, 3]), torch.tensor([-2.0, 1])]
    assert disjoint_mean(deltas, [1, 2]).tolist() == pytest.approx([-2, 5 / 3])
    assert disjoint_mean(deltas, [1, 0]).tolist() == [3, 3]


def test_dare_drops_a_share_and_rescales_the_rest() -> None:
    delta = torch.ones(100_000)
    left = drop_and_rescale(delta, 0.9, 5, "layer.weight", 0)
    assert sorted({*left.tolist()}) == pytest.approx([0, 10])
    # 100,000 draws: 5 standard errors of the mean, sqrt(0.9 / 0.1 / n) each.
    assert float(left.mean()) == pytest.approx(1, abs=5 * (9 / 100_000) ** 0.5)


def test_dare_of_nothing_and_of_all() -> None:
    assert drop_and_rescale(ONE, 0, 5, "w", 0) is ONE
    assert drop_and_rescale(ONE, 1, 5, "w", 0).tolist() == [0] * 5


def test_masks_depend_on_seed_name_and_place_alone() -> None:
    delta = torch.ones(64)
    first = drop_and_rescale(delta, 0.5, 5, "w", 0)
    torch.manual_seed(99)
    drop_and_rescale(delta, 0.5, 5, "other", 0)
    assert drop_and_rescale(delta, 0.5, 5, "w", 0).equal(first)
    for seed, name, place in ((6, "w", 0), (5, "v", 0), (5, "w", 1)):
        assert not drop_and_rescale(delta, 0.5, seed, name, place).equal(first)
