"""Paired tests, their standard errors and the correction, against closed forms and counts."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev

import pytest

from cpt.errors import ProbeError
from eval.change import Change, holm
from eval.compare import changes
from eval.matrix import Item, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.noise import Noise
from eval.paired import compare


def score(
    values: Sequence[float],
    *,
    probe: str = "facts",
    weights: Sequence[float] | None = None,
    higher: bool = True,
    margin: float | None = None,
    fingerprint: str = "f0",
    clusters: Sequence[str] | None = None,
    parts: dict[str, str] | None = None,
) -> Score:
    weights = weights or [1.0] * len(values)
    names = clusters or [""] * len(values)
    items = tuple(
        Item(f"i{i}", v, w, "", "", cluster=name)
        for i, (v, w, name) in enumerate(zip(values, weights, names, strict=True))
    )
    return Score(
        probe=probe,
        metric="acc" if higher else "bits_per_byte",
        group="knowledge",
        higher_is_better=higher,
        margin=margin,
        value=weighted_mean(items),
        stderr=ratio_stderr(items),
        items=items,
        fingerprint=fingerprint,
        parts=parts or {},
    )


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
    assert change.p_value == 0.5  # the score is 0 at the margin itself


def test_six_percent_of_a_thousand_is_a_regression() -> None:
    change = one(*flipped(400, 60, 0, 1000), 0.02)
    spread = stdev([-1.0] * 60 + [0.0] * 940) / math.sqrt(1000)
    assert change.verdict == "regressed"
    assert change.stderr == pytest.approx(spread)
    assert change.p_value < 1e-4
    assert -0.0766 < change.low < change.delta < change.high < -0.02
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


def test_a_row_against_itself_is_held_once_its_items_can_show_that() -> None:
    # No item of n changed: with a fall of 2 points and no wins that has the chance 0.98^n, 2.5 % at 182.6
    # items; few wins make tables as extreme a little more likely.
    for total, verdict in ((7, "undecided"), (184, "undecided"), (185, "held")):
        same = score(binary(3, total))
        change = one(same, same, 0.02)
        assert (change.verdict, change.stderr, change.improved) == (verdict, 0, False)
        assert change.low < 0 < change.high
        assert change.detectable > 0
    assert one(same, same, 0.0).verdict == "undecided"  # nobody shows that nothing at all was lost
    assert one(same, same, 0.0).p_value == 1


def test_equal_falls_of_all_items_are_certain_once_they_are_many() -> None:
    few = score([0.1, 0.2, 0.3]), score([0.0, 0.1, 0.2])
    assert one(*few, 0.05).verdict == "undecided"
    before = [0.1 + i % 7 / 10 for i in range(100)]
    many = score(before), score([value - 0.1 for value in before])
    assert one(*many, 0.05).verdict == "regressed"
    assert one(*many, 0.15).verdict == "held"
    assert one(many[1], many[0], 0.0).improved


def test_a_small_fall_within_the_margin_is_held_when_items_are_many() -> None:
    change = one(*flipped(4000, 60, 50, 10000), 0.02)
    assert change.verdict == "held"


def test_the_level_is_that_of_holm_s_first_step() -> None:
    scores = [score(binary(40, 100), probe=name) for name in ("a", "b", "c")]
    found = changes(row("base", *scores), row("sft", *scores), 0.02, num_pairs=4)
    assert {change.level for change in found} == {0.05 / 12}


def test_holm_counts_all_pairs_of_rows_that_share_a_level() -> None:
    before, after = flipped(50, 9, 1, 100)
    alone = one(before, after, 0.0)
    (shared,) = changes(row("base", before), row("sft", after), 0.0, num_pairs=4)
    assert (alone.p_holm, alone.verdict) == (22 / 1024, "regressed")
    assert (shared.p_value, shared.p_holm, shared.verdict) == (11 / 1024, 44 / 1024, "regressed")
    (shared,) = changes(row("base", before), row("sft", after), 0.0, num_pairs=5)
    assert (shared.p_holm, shared.verdict) == (55 / 1024, "undecided")
    assert shared.detectable > alone.detectable


def test_intervals_are_of_the_change_in_the_metric_s_own_direction() -> None:
    before = [1.9 + 0.002 * i for i in range(101)]
    after = [b + 0.3 + (0.1 if i % 2 else -0.1) for i, b in enumerate(before)]
    worse = one(score(before, higher=False), score(after, higher=False), 0.05)
    assert 0.25 < worse.low < worse.delta < worse.high < 0.35
    assert (worse.gain_low, worse.gain_high) == (-worse.high, -worse.low)
    better = one(score(before), score(after), 0.05)
    assert (better.gain_low, better.gain_high) == (better.low, better.high)


def test_noise_makes_verdicts_more_careful() -> None:
    for before, after in (
        flipped(400, 60, 0, 1000),
        (
            score([0.5 + i % 9 / 20 for i in range(100)]),
            score([0.4 + i % 8 / 20 for i in range(100)]),
        ),
    ):
        quiet = one(before, after, 0.02)
        found: list[Change] = []
        for stderr in (0.0, 0.2):
            floor = Noise("facts", 1000, 7, 1.0, 0.01, stderr)
            found += changes(row("base", before), row("sft", after), 0.02, noise={"facts": floor})
        assert found[0] == quiet
        assert found[1].stderr == pytest.approx(math.hypot(quiet.stderr, 0.2))
        assert found[1].low < quiet.low < quiet.high < found[1].high
        assert found[1].p_value > quiet.p_value
        assert found[1].detectable > quiet.detectable
        assert (quiet.verdict, found[1].verdict) == ("regressed", "undecided")


def test_items_of_one_cluster_count_as_one() -> None:
    # 5 copies of each item: nothing is known that 40 items do not tell
    once = flipped(20, 9, 1, 40)
    copies = [
        score([item.value for item in s.items for _ in range(5)],
              clusters=[item.id for item in s.items for _ in range(5)])
        for s in once
    ]  # fmt: skip
    single, copied = one(*once, 0.0), one(copies[0], copies[1], 0.0)
    assert copied.stderr == pytest.approx(single.stderr)
    assert copied.p_value == pytest.approx(single.p_value, abs=0.02)
    assert (copied.num_items, copied.num_changed) == (200, 10)
    loose = one(
        score([i.value for i in copies[0].items]), score([i.value for i in copies[1].items]), 0.0
    )
    assert loose.p_value < 1e-8 < single.p_value


def test_what_was_measured_differently_is_named() -> None:
    parts = {"task version": "1.0", "shots": "0", "prompt": "a" * 99, "template": "x" * 50}
    before = score([1.0, 0.0], parts=parts)
    others = parts | {"shots": "5", "prompt": "b", "template": "x" * 49}
    after = score([1.0, 0.0], fingerprint="f1", parts=others)
    with pytest.raises(ProbeError) as refused:
        one(before, after, 0.02)
    assert str(refused.value) == (
        "probe facts was measured differently for base and sft "
        f"(shots: 0, not 5; prompt: {'a' * 37}..., not b; template differs); probe both again"
    )


def test_another_number_type_is_refused_though_the_fingerprint_is_the_same() -> None:
    before = score([1.0, 0.0], parts={"dtype": "float32"})
    assert one(before, score([1.0, 0.0]), 0.02).delta == 0  # an old file does not say
    with pytest.raises(ProbeError, match="dtype: float32, not bfloat16"):
        one(before, score([1.0, 0.0], parts={"dtype": "bfloat16"}), 0.02)


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
    before, after = flipped(50, 6, 0, 100)  # p = 1/64 alone, on one side
    for more, p_holm, verdict in (
        (0, 2 / 64, "regressed"),
        (1, 2 / 64, "regressed"),
        (2, 3 / 64, "regressed"),
        (3, 4 / 64, "undecided"),
    ):
        same = [score(binary(50, 100), probe=f"other {n}") for n in range(more)]
        found = changes(row("base", before, *same), row("sft", after, *same), 0.0)
        assert (found[0].p_value, found[0].p_holm) == pytest.approx((1 / 64, p_holm))
        assert found[0].verdict == verdict


def test_no_verdict_contradicts_the_interval_beside_it() -> None:
    seen = set()
    for lost in range(0, 60, 6):
        for won in range(0, 40, 6):
            for margin in (0.0, 0.02):
                change = one(*flipped(400, lost, won, 1000), margin)
                seen.add((change.verdict, change.improved))
                assert change.low <= change.delta <= change.high
                if change.verdict == "held":
                    assert change.low >= -margin
                elif margin:
                    assert change.low <= -margin
                if change.verdict == "regressed":
                    assert change.high <= -margin
                else:
                    assert change.high >= -margin
                if change.improved:
                    assert change.low >= 0
                else:
                    assert change.low <= 0
    assert len(seen) >= 4


def test_the_interval_of_weighted_items_agrees_too() -> None:
    draw = random.Random(5)
    for shift in [n / 400 for n in range(-40, 41)]:
        before = [draw.gauss(2, 0.2) for _ in range(60)]
        after = [b + shift + draw.gauss(0, 0.05) for b in before]
        change = one(score(before, higher=False), score(after, higher=False), 0.03)
        assert (change.verdict == "held") == (change.gain_low > -0.03)
        assert (change.verdict == "regressed") == (change.gain_high < -0.03)
        assert change.improved == (change.gain_low > 0)


def test_improvements_are_corrected_like_regressions() -> None:
    before, after = flipped(40, 0, 7, 100)  # p = 1/128 on one side
    for num_pairs, improved in ((1, True), (6, True), (7, False)):
        (change,) = changes(row("base", before), row("sft", after), 0.02, num_pairs=num_pairs)
        assert (change.p_rise, change.improved) == (1 / 128, improved)
    # Holm's second step: the rise that is certain leaves more to the other
    sure = [replace(s, probe="sure") for s in flipped(40, 0, 30, 100)]
    for num_pairs, improved in ((6, True), (7, False)):
        found = changes(
            row("base", before, sure[0]), row("sft", after, sure[1]), 0.02, num_pairs=num_pairs
        )
        assert [change.improved for change in found] == [improved, True]


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


def test_where_neither_is_better_both_ways_are_worse() -> None:
    lengths = [50.0 + i % 7 for i in range(60)]
    noise = [(-1) ** i * (i % 5) / 10 for i in range(60)]
    found = {}
    for shift in (-4.0, 0.1, 4.0):
        after = [v + shift + n for v, n in zip(lengths, noise, strict=True)]
        before, later = (
            replace(score(values, margin=2.0), is_drift=True) for values in (lengths, after)
        )
        found[shift] = one(before, later, 0.0)
    verdicts = [change.verdict for change in found.values()]
    assert verdicts == ["regressed", "held", "regressed"]
    down, middle, up = found.values()
    assert (down.gain, up.gain) == pytest.approx((-4, -4), abs=0.01)
    assert down.delta < down.high < 0 < up.low < up.delta
    assert down.gain_high == pytest.approx(up.gain_high, abs=0.05)
    assert not any(change.improved for change in (down, middle, up))
    # tested on both sides: twice the p-value, half the level
    after = [v + 0.1 + n for v, n in zip(lengths, noise, strict=True)]
    plain = one(score(lengths), score(after), 0.0)
    before, later = (
        replace(score(values, margin=0.0), is_drift=True) for values in (lengths, after)
    )
    drift = one(before, later, 0.02)
    assert drift.p_value == pytest.approx(2 * plain.p_rise, rel=1e-9)
    assert drift.p_holm == drift.p_value  # it is that of both sides already
    assert drift.level == plain.level == 0.025


def test_a_drift_is_held_where_both_sides_are_shown() -> None:
    """Of a skewed change one side is surer than the other; the less sure one counts."""
    before = [60.0] * 60
    after = [60.0 + (9.0 if number % 12 == 0 else -0.2) for number in range(60)]
    pair = [score(values, margin=1.2) for values in (before, after)]
    sides = [compare(pair[0].items, pair[1].items, sign, 1.2).not_worse for sign in (1, -1)]
    assert min(sides) < max(sides) / 2
    old, new = (row(name, replace(s, is_drift=True)) for name, s in zip("ab", pair, strict=True))
    for level, verdict in ((max(sides) * 2.2, "held"), (max(sides) * 1.8, "undecided")):
        (change,) = changes(old, new, 0.02, level)
        assert change.verdict == verdict
