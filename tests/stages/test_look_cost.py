"""What looks cost is known after few steps, and told once."""

import pytest

from stages.look_cost import LookCost


def after(looks: list[float], steps: list[float], **settings: bool) -> LookCost:
    cost = LookCost(num_looks=20, num_steps=200, **{"has_suite": True, **settings})
    for seconds in looks:
        cost.looked(seconds)
    for seconds in steps:
        cost.stepped(seconds)
    return cost


def test_it_is_that_of_later_looks_and_steps() -> None:
    """20 looks of 6 s beside 200 steps of 1.5 s; the base model was measured in the first look."""
    cost = after([90.0, 5.0, 7.0], [30.0, 1.0, 2.0])
    assert cost.share == pytest.approx(20 * 6 / (200 * 1.5))
    assert cost.told() == (
        "watch: 20 looks of 6.0 s are about 40% of the time of 200 steps; raise watch.every, set "
        "watch.early: false, or name a smaller suite"
    )
    assert cost.told() == ""


def test_it_is_known_after_two_steps_and_a_look_that_is_like_the_others() -> None:
    assert after([90.0], [30.0, 1.0, 1.0]).share is None
    assert after([90.0, 5.0], [30.0]).share is None
    assert after([90.0, 5.0], [30.0, 1.0]).share == pytest.approx(0.5)
    assert after([5.0], [30.0, 1.0], has_suite=False).share == pytest.approx(0.5)


@pytest.mark.parametrize(("look", "step"), [(2.9, 1.0), (2.5, 0.1)])
def test_little_is_not_told(look: float, step: float) -> None:
    """Below three tenths of the training, or below a minute in all."""
    assert after([9.0, look], [1.0, step]).told() == ""
