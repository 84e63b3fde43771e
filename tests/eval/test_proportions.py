"""Tests of right and wrong items against brute force, closed forms and published intervals."""

import math
from statistics import NormalDist

import pytest
from scipy.stats import binomtest, multinomial

from eval import proportions
from eval.proportions import mcnemar, restricted_loss, score, score_interval, score_test


def log_likelihood(lost: int, won: int, num_items: int, gain: float, loss: float) -> float:
    rest = num_items - lost - won
    parts = ((lost, loss), (won, loss + gain), (rest, 1 - 2 * loss - gain))
    if any(p < 0 or (p == 0 and count) for count, p in parts):
        return -math.inf
    return sum(count * math.log(p) for count, p in parts if count)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (7, 0), (0, 4), (10, 1), (30, 29), (200, 3)])
def test_mcnemar_is_the_binomial_test(lost: int, won: int) -> None:
    worse, not_worse = mcnemar(lost, won)
    if lost + won:
        assert worse == pytest.approx(binomtest(lost, lost + won, alternative="greater").pvalue)
        assert not_worse == pytest.approx(binomtest(won, lost + won, alternative="greater").pvalue)
    else:
        assert (worse, not_worse) == (1, 1)


@pytest.mark.parametrize(
    ("lost", "won", "num_items", "gain"),
    [(6, 2, 50, -0.02), (0, 3, 40, -0.1), (5, 0, 60, -0.05), (12, 9, 100, 0.2), (0, 0, 30, -0.1)],
)
def test_the_restricted_chance_is_the_most_likely_one(
    lost: int, won: int, num_items: int, gain: float
) -> None:
    found = restricted_loss(lost, won, num_items, gain)
    steps = [k / 20000 for k in range(20001)]
    best = max(steps, key=lambda loss: log_likelihood(lost, won, num_items, gain, loss))
    assert found == pytest.approx(best, abs=1e-4)


def test_the_score_interval_is_the_published_one() -> None:
    # Tango 1998, lenses: one of 44 pairs changed; and 36, 12, 2, 0 of Newcombe 1998, table II
    assert score_interval(1, 0, 44) == pytest.approx((-0.1181, 0.0594), abs=1e-4)
    assert score_interval(2, 12, 50) == pytest.approx((0.0611, 0.3447), abs=1e-4)


def test_the_ends_of_the_interval_are_where_the_score_is_two() -> None:
    low, high = score_interval(9, 4, 120)
    assert score(9, 4, 120, low) == pytest.approx(1.959964, abs=1e-5)
    assert score(9, 4, 120, high) == pytest.approx(-1.959964, abs=1e-5)
    assert score_interval(0, 0, 100)[1] == pytest.approx(3.841459 / 103.841459)


def test_without_a_changed_item_the_test_is_the_chance_to_see_none() -> None:
    worse, not_worse = score_test(0, 0, 149, 0.02)
    assert not_worse == pytest.approx(0.98**149 + 1e-5, rel=1e-9)
    assert worse > 0.5


def test_the_score_at_the_null_hypothesis_is_that_of_wald_with_its_variance() -> None:
    # lost - won = 7 at a margin of 0.02 of 100 items
    loss = restricted_loss(8, 1, 100, -0.02)
    variance = (loss + loss - 0.02 - 0.02**2) / 100
    assert score(8, 1, 100, -0.02) == pytest.approx((-0.07 + 0.02) / math.sqrt(variance))


def rejection_rate(num_items: int, wins: float, margin: float, level: float) -> tuple[float, float]:
    """True level of both sides: all tables of few items, weighted with their probabilities."""
    table = multinomial(num_items, [wins + margin, wins, 1 - 2 * wins - margin])
    rates = [0.0, 0.0]
    for lost in range(num_items + 1):
        for won in range(num_items + 1 - lost):
            p = float(table.pmf([lost, won, num_items - lost - won]))
            if p > 1e-7:
                for side, p_value in enumerate(score_test(lost, won, num_items, margin)):
                    rates[side] += p * (p_value < level)
    return rates[0], rates[1]


@pytest.mark.parametrize("wins", [0.0, 0.02])
def test_the_exact_test_keeps_its_level(wins: float) -> None:
    for level in (0.05, 0.004):
        worse, not_worse = rejection_rate(60, wins, 0.05, level)
        assert worse <= level
        assert not_worse <= level


@pytest.mark.parametrize(
    ("lost", "won", "num_items", "margin"),
    [(20, 5, 200, 0.02), (15, 0, 500, 0.01), (6, 3, 150, 0.02), (8, 1, 60, 0.02)],
)
def test_the_largest_probability_is_found(
    lost: int, won: int, num_items: int, margin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = score_test(lost, won, num_items, margin)
    monkeypatch.setattr(proportions, "_NUISANCES", 2001)
    score_test.cache_clear()
    finest = score_test(lost, won, num_items, margin)
    score_test.cache_clear()
    assert found == pytest.approx(finest, rel=1e-3)


def test_the_normal_tail_of_the_score_does_not() -> None:
    level = 0.05 / 48
    lost = next(k for k in range(500) if NormalDist().cdf(score(k, 0, 500, -0.02)) < level)
    tail = 1 - math.fsum(
        math.comb(500, k) * 0.02**k * 0.98 ** (500 - k) for k in range(lost)
    )  # nobody wins, so that the losses alone reject
    assert tail > 2.5 * level
    assert score_test(lost, 0, 500, 0.02)[0] >= tail


def test_large_tables_are_normal() -> None:
    z = score(700, 620, 5000, -0.01)
    assert score_test(700, 620, 5000, 0.01)[0] == NormalDist().cdf(z)


def test_no_share_falls_by_more_than_one() -> None:
    assert score_test(9, 0, 9, 1.0) == (1, 0)
    assert score_test(9, 0, 9, 2.5) == (1, 0)
    assert score_test(30, 0, 30, 0.5)[0] < 0.05
