"""Paired comparisons against scipy and against themselves; clusters by hand."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from eval.matrix import Item
from eval.paired import Paired, compare


def items(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
) -> list[Item]:
    return [
        Item(
            f"i{i}", v, weights[i] if weights else 1.0, "", "",
            cluster=clusters[i] if clusters else "",
        )
        for i, v in enumerate(values)
    ]  # fmt: skip


def test_without_skewness_it_is_the_paired_t_test() -> None:
    before = [1.0 + 0.01 * i for i in range(400)]
    after = [b + 0.02 + (0.3 if i % 4 in (0, 3) else -0.3) for i, b in enumerate(before)]
    found = compare(items(before), items(after), 1, 0.0)
    both = ttest_rel(after, before)
    assert found.stderr == pytest.approx(both.statistic**-1 * 0.02)
    assert found.worse == pytest.approx(student.cdf(both.statistic, 399), rel=2e-3)
    low, high = both.confidence_interval(0.95)
    # as much skewness as these may have and do not show makes it 1 % wider
    assert found.low < low < high < found.high
    assert (found.low, found.high) == pytest.approx((low, high), abs=3e-4)


def test_the_interval_holds_what_the_test_does_not_reject() -> None:
    draw = random.Random(4)
    before = [draw.gauss(0, 1) for _ in range(40)]
    after = [b + draw.expovariate(1.0) - 0.9 for b in before]
    for sign in (1, -1):
        found = compare(items(before), items(after), sign, 0.0)
        at = {
            end: compare(items(before), items(after), sign, -getattr(found, end))
            for end in ("low", "high")
        }
        assert at["high"].worse == pytest.approx(0.025, abs=1e-9)
        assert at["low"].not_worse == pytest.approx(0.025, abs=1e-9)


def test_what_never_varies_shows_nothing() -> None:
    found = compare(items([2.0, 2.0]), items([2.0, 2.0]), 1, 0.1)
    assert (found.worse, found.not_worse, found.low, found.high) == (1, 1, 0, 0)


def test_one_item_or_one_cluster_decides_nothing() -> None:
    for clusters in (None, ["a"]):
        found = compare(items([0.9], None, clusters), items([0.1], None, clusters), 1, 0.02)
        assert min(found.worse, found.not_worse) > 0.2


def test_clusters_of_equal_items_are_as_wide_as_their_number() -> None:
    draw = random.Random(0)
    before = [draw.gauss(0, 1) for _ in range(30)]
    after = [b + draw.gauss(0, 1) for b in before]
    once = compare(items(before), items(after), 1, 0.1)
    names = [f"c{i // 4}" for i in range(120)]
    copies = [
        items([v for v in values for _ in range(4)], None, names) for values in (before, after)
    ]
    copied = compare(copies[0], copies[1], 1, 0.1)
    for name in ("gain", "stderr", "low", "high", "worse", "not_worse"):
        assert getattr(copied, name) == pytest.approx(getattr(once, name)), name
    assert copied.units is not None
    upper = 1 + 0.8416212 * math.sqrt(2 / 29)
    assert copied.units.design == pytest.approx(4 * 119 / 116 * upper)


def test_weights_or_clusters_put_proportions_into_the_t_test() -> None:
    before, after = [1.0] * 8 + [0.0] * 8, [0.0] * 2 + [1.0] * 6 + [0.0] * 8
    assert compare(items(before), items(after), 1, 0.0).counts == (2, 0)
    extras: list[dict[str, Any]] = [
        {"weights": [2.0] + [1.0] * 15},
        {"clusters": ["a", "a"] + [""] * 14},
    ]
    for extra in extras:
        found = compare(items(before, **extra), items(after, **extra), 1, 0.0)
        assert found.counts is None
        assert found.units is not None


def test_lower_is_better_mirrors_everything() -> None:
    before, after = [1.0, 0.0, 1.0, 1.0] * 9, [0.0, 0.0, 1.0, 1.0] * 9
    up = compare(items(before), items(after), 1, 0.1)
    down = compare(items(after), items(before), -1, 0.1)
    assert up == down
    assert isinstance(up, Paired)
    more = [value + 0.1 * (i % 5 == 0) for i, value in enumerate(after)]
    up = compare(items(before), items(more), 1, 0.1)
    down = compare(items([-v for v in before]), items([-v for v in more]), -1, 0.1)
    assert up.units is not None
    assert down.units is not None
    assert (up.low, up.worse, up.units.skewness) == pytest.approx(
        (down.low, down.worse, down.units.skewness)
    )


def test_intervals_hold_what_exact_tests_do_not_reject() -> None:
    # 5 of 5 changed items won: the score says z = 2.24, the exact test p = 1 / 32
    before = items([0.0] * 60)
    found = compare(before, items([1.0] * 5 + [0.0] * 55), 1, 0.02)
    assert found.low == 0
    assert found.not_better == pytest.approx(1 / 32)
    more = compare(before, items([1.0] * 6 + [0.0] * 54), 1, 0.02)
    assert more.low > 0
    assert more.not_better == pytest.approx(1 / 64)


def test_fewer_than_ten_units_show_nothing() -> None:
    for count in (9, 10):
        names = [f"c{i // 20}" for i in range(20 * count)]
        before = [1.0] * len(names)
        after = [0.1 + 0.01 * (i % 20) for i in range(len(names))]
        found = compare(items(before, None, names), items(after, None, names), 1, 0.02)
        decided = count >= 10
        assert (found.worse < 0.05) == decided
        back = compare(items(after, None, names), items(before, None, names), 1, 0.02)
        assert (back.not_worse < 0.05) == (back.not_better < 0.05) == decided
