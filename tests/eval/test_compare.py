"""Paired tests, their standard errors and the correction, against closed forms and counts."""

import math
from collections.abc import Sequence
from statistics import NormalDist, stdev

import pytest

from cpt.errors import ProbeError
from eval.compare import Change, changes, holm, ratio_stderr, weighted_mean
from eval.matrix import Item, Row, Score

PHI = NormalDist().cdf


def score(
    values: Sequence[float],
    *,
    probe: str = "facts",
    weights: Sequence[float] | None = None,
    higher: bool = True,
    margin: float | None = None,
    fingerprint: str = "f0",
) -> Score:
    weights = weights or [1.0] * len(values)
    items = tuple(
        Item(f"i{i}", v, w, "", "") for i, (v, w) in enumerate(zip(values, weights, strict=True))
    )
    metric = "acc" if higher else "bits_per_byte"
    value, stderr = weighted_mean(items), ratio_stderr(items)
    return Score(
        probe, metric, "knowledge", higher, margin, value, stderr, items, fingerprint
    )  # fmt: skip


def row(stage: str, *scores: Score) -> Row:
    return Row(stage, f"{stage}-0", {s.probe: s for s in scores})


def binary(right: int, total: int) -> list[float]:
    return [1.0] * right + [0.0] * (total - right)


def one(before: Score, after: Score, margin: float) -> Change:
    (change,) = changes(row("base", before), row("sft", after), margin)
    return change


def flipped(
    right: int, lost: int, won: int, total: int, margin: float | None = None
) -> tuple[Score, Score]:
    before = binary(right, total)
    after = before.copy()
    after[:lost] = [0.0] * lost
    after[right : right + won] = [1.0] * won
    return score(before, margin=margin), score(after, margin=margin)


def test_two_of_a_hundred_is_no_alert() -> None:
    change = one(*flipped(40, 2, 0, 100), 0.02)
    assert change.delta == pytest.approx(-0.02)
    assert change.verdict == "undecided"
    assert change.p_value == pytest.approx(0.5)


def test_six_percent_of_a_thousand_is_a_regression() -> None:
    change = one(*flipped(400, 60, 0, 1000), 0.02)
    spread = stdev([-1.0] * 60 + [0.0] * 940) / math.sqrt(1000)
    assert change.verdict == "regressed"
    assert change.stderr == pytest.approx(spread)
    assert change.p_value == pytest.approx(PHI((-0.06 + 0.02) / spread))
    assert not change.improved


def test_a_loss_that_rises_is_a_regression() -> None:
    before = [1.9 + 0.002 * i for i in range(101)]
    after = [b + 0.3 + (0.1 if i % 2 else -0.1) for i, b in enumerate(before)]
    change = one(score(before, higher=False), score(after, higher=False), 0.05)
    assert change.delta == pytest.approx(0.3, abs=2e-3)
    assert change.gain == -change.delta
    assert change.verdict == "regressed"


def test_a_loss_that_falls_is_an_improvement() -> None:
    before = [2.0 + 0.01 * i for i in range(50)]
    after = [b - 0.3 + 0.01 * (i % 3) for i, b in enumerate(before)]
    change = one(score(before, higher=False), score(after, higher=False), 0.02)
    assert change.improved
    assert change.gain > 0 > change.delta
    assert change.verdict == "held"


def test_without_a_margin_binary_items_get_the_exact_paired_test() -> None:
    change = one(*flipped(50, 9, 1, 100), 0.0)
    assert change.p_value == pytest.approx((10 + 1) / 1024)  # P(Binomial(10, 1/2) >= 9)
    assert change.verdict == "regressed"
    change = one(*flipped(50, 4, 1, 100), 0.0)
    assert change.p_value == pytest.approx((5 + 1) / 32)
    assert change.verdict == "undecided"
    change = one(*flipped(40, 1, 9, 100), 0.0)
    assert change.p_value == pytest.approx(1 - 1 / 1024)
    assert (change.verdict, change.improved) == ("held", True)


def test_a_row_against_itself_is_held_at_any_margin() -> None:
    for margin in (0.0, 0.02):
        change = one(score(binary(3, 7)), score(binary(3, 7)), margin)
        assert (change.verdict, change.stderr, change.p_value) == ("held", 0, 1)
        assert not change.improved


def test_equal_falls_of_all_items_are_certain() -> None:
    falls = score([0.1, 0.2, 0.3]), score([0.0, 0.1, 0.2])
    assert one(*falls, 0.05).verdict == "regressed"
    assert one(*falls, 0.1).verdict == "held"  # just the margin
    assert one(falls[1], falls[0], 0.0).improved


def test_a_small_fall_within_the_margin_is_held_when_items_are_many() -> None:
    change = one(*flipped(4000, 60, 50, 10000), 0.02)
    assert change.verdict == "held"


def test_detectable_is_the_effect_at_eighty_percent_power() -> None:
    change = one(*flipped(40, 5, 5, 100), 0.02)
    quantile = NormalDist().inv_cdf
    assert change.detectable == pytest.approx((quantile(0.95) + quantile(0.8)) * change.stderr)
    assert change.detectable == pytest.approx(2.4865 * change.stderr, rel=1e-4)


def test_the_probe_s_own_margin_goes_first() -> None:
    change = one(*flipped(400, 60, 0, 1000, margin=0.2), 0.02)
    assert (change.margin, change.verdict) == (0.2, "held")


def test_weighted_ratio_equals_the_linearised_formula_by_hand() -> None:
    # R_before = (1*10 + 2*30) / 40 = 1.75, R_after = (2*10 + 2*30) / 40 = 2.0
    # e = (10*(2-2) - 10*(1-1.75)) / 40 = 0.1875 and (30*0 - 30*(2-1.75)) / 40 = -0.1875
    weights = [10.0, 30.0]
    before = score([1.0, 2.0], weights=weights, higher=False)
    after = score([2.0, 2.0], weights=weights, higher=False)
    change = one(before, after, 0.02)
    assert change.delta == pytest.approx(0.25)
    assert change.stderr == pytest.approx(math.sqrt(2 * 2 * 0.1875**2))


def test_ratio_stderr_without_weights_is_that_of_a_mean() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    items = [Item(str(i), v, 1.0, "", "") for i, v in enumerate(values)]
    assert ratio_stderr(items) == pytest.approx(stdev(values) / math.sqrt(5))


def test_holm_by_hand() -> None:
    # sorted: .005*4, .01*3, .03*2, .04*1 -> .02, .03, .06, max(.06, .04)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_correction_can_turn_a_regression_into_a_doubt() -> None:
    before, after = flipped(50, 5, 0, 100)  # p = 1/32 alone
    same = score(binary(50, 100), probe="other")
    alone = one(before, after, 0.0)
    assert (alone.p_holm, alone.verdict) == (1 / 32, "regressed")
    both = changes(row("base", before, same), row("sft", after, same), 0.0)
    assert (both[0].p_value, both[0].p_holm, both[0].verdict) == (1 / 32, 1 / 16, "undecided")


def test_only_items_of_both_rows_are_compared() -> None:
    before = score([1.0, 1.0, 0.0])
    change = one(before, score([1.0, 0.0]), 0.0)
    assert (change.num_items, change.delta) == (2, -0.5)


def test_only_probes_of_both_rows_are_compared() -> None:
    a, b = score([1.0, 0.0]), score([1.0, 0.0], probe="sums")
    assert [c.probe for c in changes(row("base", a, b), row("sft", b), 0.02)] == ["sums"]


def test_rows_measured_differently_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"facts was measured differently for base \(f0\)"):
        one(score([1.0, 0.0]), score([1.0, 0.0], fingerprint="f1"), 0.02)


def test_nan_is_a_hard_failure() -> None:
    with pytest.raises(ProbeError, match="nan, not a finite number"):
        one(score([1.0, 0.0]), score([1.0, float("nan")]), 0.02)
