"""Values over a stage: the card's sequence and its integral."""

import math

import pytest

from cpt.errors import RecipeError
from cpt.replay.schedule import Schedule, ScheduleSpec
from cpt.settings import validate


def test_the_cards_sequence() -> None:
    """rho(s) = 0.1 + 0.4 * exp(-s / 5) over a stage of 100 steps with tau = 5 % of them."""
    schedule = Schedule(start=0.5, end=0.1, tau=0.05)
    values = [schedule.at(step / 100) for step in range(100)]
    assert values == pytest.approx([0.1 + 0.4 * math.exp(-step / 5) for step in range(100)])
    assert values[0] == 0.5
    assert values[5] == pytest.approx(0.1 + 0.4 / math.e)


def test_a_line_ends_after_tau() -> None:
    schedule = Schedule(start=1.0, end=0.2, tau=0.5, shape="linear")
    assert [schedule.at(time) for time in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        [1, 0.6, 0.2, 0.2, 0.2]
    )


@pytest.mark.parametrize("shape", ["exponential", "linear"])
@pytest.mark.parametrize(("start", "end", "tau"), [(0.5, 0.1, 0.05), (0.0, 0.3, 0.4), (0.2, 0, 1)])
def test_the_integral_is_that_of_the_values(
    shape: str, start: float, end: float, tau: float
) -> None:
    schedule = Schedule(start, end, tau, shape)  # type: ignore[arg-type]
    pieces = 20_000
    for time in (0.03, 0.5, 1.0):
        middle = sum(schedule.at((n + 0.5) * time / pieces) for n in range(pieces)) * time / pieces
        assert schedule.integral(time) == pytest.approx(middle, rel=1e-6)
    assert schedule.mean == schedule.integral(1.0)
    assert schedule.highest == max(start, end)


def test_nothing_said_is_constant() -> None:
    schedule = Schedule.of(0.3, None)
    assert schedule.is_constant
    assert {schedule.at(time / 7) for time in range(8)} == {0.3}
    assert not Schedule.of(0.3, ScheduleSpec(start=0.5)).is_constant


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "start is missing"),
        ({"start": -0.1}, "greater than or equal to 0"),
        ({"start": float("nan")}, "start: input should be"),
        ({"start": 0.5, "tau": 0.0}, "tau: input should be greater than 0"),
        ({"start": 0.5, "tau": 1.5}, "tau: input should be less than or equal to 1"),
        ({"start": 0.5, "shape": "cosine"}, "shape: input should be 'exponential' or 'linear'"),
    ],
)
def test_what_is_no_schedule_is_refused(tree: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        validate(ScheduleSpec, tree, "x")
