"""Numbers become colours, positions and words as promised."""

import math
from dataclasses import replace
from typing import Any

import pytest

from eval.change import Change
from eval.report import forest
from eval.report.heat_map import FULL, heat
from eval.report.markup import Markup, tag
from eval.report.svg import padded, ticks
from eval.report.text import clean, duration, listing, number, scalar, shorten, signed
from eval.report.words import by_weight, word

CHANGE = Change(
    probe="facts",
    before="base",
    after="sft",
    delta=-0.1,
    gain=-0.1,
    low=-0.1 - 0.0196,
    high=-0.1 + 0.0196,
    stderr=0.01,
    margin=0.02,
    p_value=0.0,
    p_holm=0.0,
    verdict="regressed",
    improved=False,
    detectable=0.025,
    num_items=100,
    num_changed=12,
    level=0.05,
    num_items_needed=160,
)


def moved(gain: float, half: float, **other: Any) -> Change:
    """A change with an interval of that half width."""
    return replace(CHANGE, delta=gain, gain=gain, low=gain - half, high=gain + half, **other)


def test_a_change_that_may_be_none_has_no_colour() -> None:
    assert heat(moved(0.019, 0.0196)) == 0
    assert heat(moved(-0.019, 0.0196)) == 0
    assert heat(moved(0.0, 0.0, stderr=0.0)) == 0


def test_colour_is_the_certain_part_of_a_change_in_margins() -> None:
    certain = 0.1 - 0.0196
    assert math.isclose(heat(CHANGE), -math.sqrt(certain / (0.02 * FULL)))
    assert heat(moved(0.9, 0.0)) == 1
    assert heat(moved(-0.9, 0.0)) == -1
    assert 0 < heat(moved(0.1, 0.02, margin=0.0)) <= 1


def test_an_interval_need_not_lie_evenly_around_its_change() -> None:
    loss = replace(CHANGE, delta=0.1, low=0.04, high=0.3, higher_is_better=False)
    assert math.isclose(heat(loss), -math.sqrt(0.04 / (0.02 * FULL)))
    assert forest.in_margins(loss) == (-15, -5, -2)


def test_intervals_are_in_margins_and_far_ends_become_arrows() -> None:
    low, middle, high = forest.in_margins(CHANGE)
    assert math.isclose(middle, -5)
    assert math.isclose(high - low, 2 * 0.0196 / 0.02)
    far = moved(2.0, 0.0196, verdict="held", improved=True)
    scale = forest.axis([CHANGE, far])
    assert (scale.low, scale.high) == (low, 32)
    assert 'class="arrow"' in forest.row([forest.Bar(far, "from-base")], scale, "far")
    assert 'class="arrow"' not in forest.row([forest.Bar(CHANGE, "from-base")], scale, "near")


def test_one_word_per_change_and_regressions_first() -> None:
    held = replace(CHANGE, verdict="held", gain=0.0)
    improved = replace(held, improved=True, gain=0.2)
    undecided = replace(CHANGE, verdict="undecided")
    found = by_weight([held, undecided, improved, CHANGE])
    assert [word(change) for change in found] == ["regressed", "improved", "undecided", "held"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (-5.2, 17, [-5, 0, 5, 10, 15]),
        (1e-7, 1e-5, [2e-6, 4e-6, 6e-6, 8e-6, 1e-5]),
        (1.21, 1.28, [1.22, 1.24, 1.26, 1.28]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: Any) -> None:
    found = ticks(low, high)
    assert found == pytest.approx(expected)
    assert low <= found[0] <= found[-1] <= high * (1 + 1e-9)


def test_a_flat_curve_still_has_a_range() -> None:
    for value in (0.0, 2.5, -3.0):
        low, high = padded([value, value])
        assert low < value < high
        assert len(ticks(low, high)) >= 3


def test_markup_escapes_everything_but_markup() -> None:
    assert tag("b", "<i>", Markup("<i>"), title='"<') == '<b title="&quot;&lt;">&lt;i&gt;<i></b>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert tag("g", x=1.5, open=False, hidden=True, y=None) == '<g x="1.5" hidden></g>'


def test_numbers_read_well() -> None:
    assert number(-0.0001) == "0.000"
    assert signed(0.12, 2) == "+0.12"
    assert signed(-0.0001) == "0.000"
    assert duration(8.13) == "8.1 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 05 min"
    assert duration(59.97) == "60.0 s"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert scalar({"beta": 0.05, "of": ["base"], "on": True, "no": None}) == (
        "{beta: 0.05, of: [base], on: true, no: null}"
    )


def test_text_is_cleaned_and_cut() -> None:
    assert clean("a\x00b\x1b[31m\u202ec\ud800") == "a\ufffdb\ufffd[31m\ufffdc\ufffd"
    assert clean("a\ud800").encode()
    assert shorten("one\ntwo  three", 9) == "one tw..."
