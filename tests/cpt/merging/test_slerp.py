import math

import pytest
import torch

from cpt.merging.slerp import slerp


def test_half_way_on_the_circle() -> None:
    made = slerp(torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), 0.5)
    assert made.tolist() == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-7)
    made = slerp(torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), 1 / 3)
    assert made.tolist() == pytest.approx([math.cos(math.pi / 6), 0.5], abs=1e-7)


def test_unit_vectors_stay_unit_vectors_whatever_the_angle() -> None:
    for angle in (1e-3, 0.1, 1.0, 3.0):
        one = torch.tensor([1.0, 0])
        other = torch.tensor([math.cos(angle), math.sin(angle)])
        made = slerp(one, other, 0.25)
        assert float(made.norm()) == pytest.approx(1, abs=1e-6)
        assert math.atan2(float(made[1]), float(made[0])) == pytest.approx(angle / 4, rel=1e-4)


def test_the_ends_are_the_models_bit_for_bit() -> None:
    one, other = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    assert slerp(one, other, 0).equal(one)
    assert slerp(one, other, 1).equal(other)
    assert slerp(one, one, 0.3).equal(one)


@pytest.mark.parametrize("other", [[0.0, 0.0], [-1.0, 0.0]])
def test_where_there_is_no_circle_the_line_is_taken(other: list[float]) -> None:
    made = slerp(torch.tensor([1.0, 0]), torch.tensor(other), 0.25)
    assert made.tolist() == pytest.approx([0.75 + 0.25 * other[0], 0])
