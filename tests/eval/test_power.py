"""Falls that are said to be detectable are found, and the items that are asked for suffice."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import chi2

from eval.matrix import Item
from eval.paired import Paired, compare
from eval.power import detectable, items_needed, upper_count
from eval.proportions import mcnemar, score_test

QUANTILE = NormalDist().inv_cdf


def binary(lost: int, won: int, num_items: int) -> Paired:
    before = [1.0] * lost + [0.0] * (num_items - lost)
    after = [0.0] * lost + [1.0] * won + [0.0] * (num_items - lost - won)
    rows = [[Item(str(i), v, 1.0, "", "") for i, v in enumerate(vs)] for vs in (before, after)]
    return compare(rows[0], rows[1], 1, 0.02)


@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_the_upper_limit_is_that_of_a_poisson_count(count: int) -> None:
    for confidence in (0.8, 0.95):
        exact = chi2.ppf(confidence, 2 * count + 2) / 2
        assert upper_count(count, confidence) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    ("won", "num_items", "margin"), [(0, 100, 0.02), (2, 100, 0.0), (5, 400, 0.02), (30, 300, 0.05)]
)
def test_a_detectable_fall_is_found_in_four_of_five_cases(
    won: int, num_items: int, margin: float
) -> None:
    level = 0.05 / 48
    excess = detectable(binary(won, won, num_items), num_items, margin, level)
    wins, fall = won / num_items, margin + excess
    rng = np.random.default_rng(0)
    tables = rng.multinomial(num_items, [wins + fall, wins, 1 - 2 * wins - fall], 300)
    found = [
        (score_test(int(lost), int(gained), num_items, margin) if margin else
         mcnemar(int(lost), int(gained)))[0] < level
        for lost, gained, _ in tables
    ]  # fmt: skip
    assert np.mean(found) >= 0.8


def test_many_changed_items_give_the_textbook_number() -> None:
    # Connor 1987: 2 points of 10 % discordant items (6 % lost, 4 % won) need 1 544 at 0.05 and 0.8
    slope = QUANTILE(0.95) * math.sqrt(0.1) + QUANTILE(0.8) * math.sqrt(0.1 - 0.02**2)
    assert math.ceil((slope / 0.02) ** 2) == 1544
    # somewhat more is printed, for the exact test and for not knowing the chance of a win
    assert 0.02 < detectable(binary(62, 62, 1544), 1544, 0.0, 0.05) < 0.023
    assert 0.005 < detectable(binary(800, 800, 20000), 20000, 0.0, 0.05) < 0.0058


def test_an_equal_row_still_has_a_detectable_fall() -> None:
    for values in ([1.0, 0.0] * 30, [0.4, 1.7] * 30):
        row = [Item(str(i), v, 1.0, "", "") for i, v in enumerate(values)]
        assert 0.03 < detectable(compare(row, row, 1, 0.02), 60, 0.02, 0.05 / 12) < 0.5


def test_numbers_that_move_alike_need_t_quantiles_and_their_spread() -> None:
    draws = np.random.default_rng(3).normal(0, 0.3, 200)
    before = [Item(str(i), 2.0 + i % 5, 1.0, "", "") for i in range(200)]
    after = [Item(str(i), 2.0 + i % 5 + d, 1.0, "", "") for i, d in enumerate(draws)]
    found = compare(before, after, -1, 0.02)
    excess = detectable(found, 200, 0.02, 0.01)
    assert excess == pytest.approx((QUANTILE(0.99) + QUANTILE(0.85)) * found.stderr, rel=0.05)
    needed = items_needed(found, 200, 0.02, 0.01)
    assert needed is not None
    # somewhat fewer than at the quantiles of 200, which know the spread and the skewness less well
    assert 0.9 * 200 * (excess / 0.02) ** 2 < needed < 200 * (excess / 0.02) ** 2


def test_the_units_that_are_asked_for_are_never_too_few_to_show_anything() -> None:
    draws = np.random.default_rng(3).normal(0, 0.001, 40)
    before = [Item(str(i), 2.0 + i % 5, 1.0, "", "", cluster=f"c{i % 5}") for i in range(40)]
    after = [Item(str(i), 2.0 + i % 5 + d, 1.0, "", "", cluster=f"c{i % 5}")
             for i, d in enumerate(draws)]  # fmt: skip
    found = compare(before, after, -1, 0.02)
    assert found.worse == found.not_worse == 1
    assert items_needed(found, 40, 0.02, 0.01) == 80  # ten clusters of eight


def test_the_items_needed_find_twice_the_margin() -> None:
    found = binary(10, 10, 200)
    needed = items_needed(found, 200, 0.05, 0.01)
    assert needed is not None
    larger = binary(round(10 * needed / 200), round(10 * needed / 200), needed)
    # the chance of a win is known better from more items
    assert 0.04 < detectable(larger, needed, 0.05, 0.01) <= 0.05
    assert items_needed(found, 200, 0.0, 0.01) is None


def test_fewer_wins_promise_no_less_than_more() -> None:
    excesses = [detectable(binary(w, w, 300), 300, 0.02, 0.001) for w in (0, 1, 4, 16, 64)]
    assert excesses == sorted(excesses)


def test_too_few_items_and_too_wide_margins_have_no_detectable_fall() -> None:
    for num_items in (1, 2, 5):
        assert detectable(binary(1, 0, num_items), num_items, 0.02, 0.001) == 1
    assert detectable(binary(2, 1, 9), 9, 1.0, 0.05) == 1
    assert items_needed(binary(2, 1, 9), 9, 1.0, 0.05) is None
