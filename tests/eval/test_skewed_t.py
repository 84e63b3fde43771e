"""The corrected t against a bootstrap and itself, its floor by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import t as student

from eval.matrix import Item
from eval.paired import compare
from eval.skewed_t import LEAST_UNITS, critical, skewed_t, units_of


def items(values: Sequence[float]) -> list[Item]:
    return [Item(f"i{i}", v, 1.0, "", "") for i, v in enumerate(values)]


def test_skewness_moves_the_interval_at_least_as_far_as_a_bootstrap_of_t_does() -> None:
    # Rare large gains: the mean is too low where they are missing, and so is the spread.
    rng = np.random.default_rng(7)
    moves = rng.exponential(size=80)
    found = compare(items([0.0] * 80), items(moves.tolist()), 1, 0.0)
    drawn = moves[rng.integers(0, 80, (20000, 80))]
    t = (drawn.mean(1) - moves.mean()) / (drawn.std(1, ddof=1) / math.sqrt(80))
    stderr = moves.std(ddof=1) / math.sqrt(80)
    upper = moves.mean() - np.quantile(t, 0.025) * stderr
    assert upper <= found.high < upper + 0.5 * stderr
    assert found.high - found.gain > 1.1 * student.ppf(0.975, 79) * stderr
    assert found.gain - found.low >= student.ppf(0.975, 79) * stderr  # never narrower than t


@pytest.mark.parametrize(
    ("draw", "num_units", "most"),
    [
        ("normal", 60, 1.0),
        ("exponential", 60, 1.0),
        ("exponential", 150, 1.0),
        ("exponential", 12, 1.0),
        ("lognormal", 60, 1.5),
    ],
)
def test_the_level_is_kept_where_few_gain_much(draw: str, num_units: int, most: float) -> None:
    """At 0.05 / 48, the level of one test among a matrix of 12 probes and 4 stages."""
    rng, level = np.random.default_rng(11), 0.05 / 48
    mean = {"normal": 0.0, "exponential": 1.0, "lognormal": math.exp(0.5)}[draw]
    found = 0
    for _ in range(5):
        moves = getattr(rng, draw)(size=(20000, num_units)) - mean
        spread = moves.std(1, ddof=1)
        cubes = ((moves - moves.mean(1, keepdims=True)) ** 3).mean(1) / spread**3
        stderr = spread / math.sqrt(num_units)
        p = [
            skewed_t(gain, error, num_units, g)[0]
            for gain, error, g in zip(moves.mean(1), stderr, cubes, strict=True)
            if gain < -2 * error
        ]
        found += sum(value < level for value in p)
    assert found / 100000 <= most * level + 2 * math.sqrt(most * level / 100000)


def test_by_hand() -> None:
    """Hall's g at the limit of the skewness, with 59 degrees of freedom."""
    error = math.sqrt(6 * 60 * 59 / (58 * 61 * 63))
    for skewness, limit in ((0.8, 1.5 * 0.8 + 1.5 * error), (-0.8, 1.5 * error)):
        a = limit / (3 * math.sqrt(60))
        g = -3 + a * 9 - a * a * 9 + a / 2
        worse, _ = skewed_t(-3.0, 1.0, 60, skewness)
        assert worse == pytest.approx(student.cdf(g, 59), rel=1e-9)
        _, not_worse = skewed_t(3.0, 1.0, 60, -skewness)
        assert not_worse == pytest.approx(worse)


def test_fewer_than_ten_units_decide_nothing() -> None:
    assert skewed_t(-50.0, 1.0, LEAST_UNITS - 1, 0.0) == (1, 1)
    assert skewed_t(-50.0, 1.0, LEAST_UNITS, 0.0)[0] < 1e-5


def test_the_critical_values_belong_to_the_p_values() -> None:
    for skewness in (-2.0, 0.0, 3.0):
        below, above = critical(0.01, 50, skewness)
        assert skewed_t(-below, 1.0, 50, skewness)[0] == pytest.approx(0.01)
        assert skewed_t(above, 1.0, 50, skewness)[1] == pytest.approx(0.01)


def test_the_floor_by_hand() -> None:
    # two of ten items fell by 0.4: three more units, each moved by 0.4 / 10
    before = [0.5] * 10
    units, stderr = units_of(items(before), items([0.1, 0.1, *before[2:]]))
    assert (units.num, units.num_changed) == (10, 2)
    assert units.stderr == pytest.approx(math.hypot(stderr, math.sqrt(3) * 0.04))
    # nine changed: one more could have, at most; ten: what is seen is all there is
    for count, unseen in ((9, 1), (10, 0)):
        units, stderr = units_of(
            items(before), items([0.1 + 0.01 * i for i in range(count)] + before[count:])
        )
        size = math.sqrt(sum((0.4 - 0.01 * i) ** 2 for i in range(count)) / count) / 10
        assert units.stderr == pytest.approx(math.sqrt(stderr**2 + unseen * size**2))
    # nothing changed: shares are moved by the whole unit, other numbers by their own spread
    units, stderr = units_of(items(before), items(before))
    assert (units.stderr, stderr) == pytest.approx((math.sqrt(3) / 10, 0))
    numbers = items([1.0, 3.0] * 5)
    units, _ = units_of(numbers, numbers)
    assert units.stderr == pytest.approx(math.sqrt(3) * 0.1)


def test_a_failing_item_loses_what_it_had() -> None:
    before, after = items([1.0, 0.0, 1.0, 0.0]), items([1.0, 0.0, 0.0, 0.0])
    assert units_of(before, after)[0].loss == 1
    before = items([0.2, 0.6])
    assert units_of(before, before)[0].loss == pytest.approx((0.04 + 0.36) / 0.8)
    assert units_of(before, before, -1)[0].loss == pytest.approx((0.64 + 0.16) / 1.2)
    assert units_of(items([2.0, 0.5]), items([2.0, 0.5]))[0].loss == 0
