"""A change of one probe, and the marks of many changes, corrected after Holm.

`regressed` is corrected and `held` is not. One false `regressed` among all probes stops a chain, so the
chance of any is what is kept at the level; `improved` is corrected likewise, among the rises. `held` acts
on nothing, and "every probe held" is wrong only if some probe that fell too far is called held, whose own
test is at the level; such a conjunction of tests needs no correction (Berger 1982, Technometrics 24:295).

No verdict contradicts the 95 % interval that is printed beside it, at a level of 0.05: `held` is tested at
half the level, a side of the interval, so that all of it lies within the margin; and no corrected p-value
is less than twice the one-sided one, so that all of it lies beyond where a probe regressed.

Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Change:
    """One probe between two rows.

    Args:
        delta: after minus before, in the metric's own direction.
        gain: `delta` with its sign turned where lower is better; of a probe for which neither is (see
            `Score.is_drift`) always minus the size of `delta`: it is worse whichever way it moves.
        low, high: two-sided 95 % interval of `delta`, from the same test as `p_value`, for this probe
            alone: it is not corrected for the others.
        stderr: standard error of the paired difference; with the noise of measuring, if that is known.
        p_value: one-sided, of the hypothesis "no worse than the margin".
        p_holm: `p_value` after Holm over all probes of the pair, times the number of pairs; twice the
            one-sided p-value at least.
        improved: the gain is above 0, by `p_rise` after the same correction.
        detectable: the smallest fall below the margin that is found with 80 % power at `level`.
        level: what Holm leaves for the smallest p-value: the family's level over its tests, of which a
            single one counts for two; half of that for a drift, which is tested on both sides.
        higher_is_better: of the score; of a drift, whether it moved down.
        num_items_needed: with which twice the margin is found so; None without a margin.
        num_changed: items, or clusters of items, whose value is not the same.
        num_units: items, or clusters of items, that `eval.skewed_t` saw; None where an exact test did.
        p_rise: one-sided, of the hypothesis "no better"; 1 for a drift.
    """

    probe: str
    before: str
    after: str
    delta: float
    gain: float
    low: float
    high: float
    stderr: float
    margin: float
    p_value: float
    p_holm: float
    verdict: Literal["regressed", "held", "undecided"]
    improved: bool
    detectable: float
    num_items: int
    num_changed: int
    level: float
    num_items_needed: int | None
    higher_is_better: bool = True
    is_drift: bool = False
    num_units: int | None = None
    p_rise: float = 1.0

    @property
    def gain_low(self) -> float:
        """Lower end of the 95 % interval of the gain."""
        return self.low if self.higher_is_better else -self.high

    @property
    def gain_high(self) -> float:
        """Upper end of the 95 % interval of the gain."""
        return self.high if self.higher_is_better else -self.low


def judged(single: Sequence[Change], level: float, num_pairs: int = 1) -> tuple[Change, ...]:
    """The changes with p-values and marks that are corrected over all of them, and `num_pairs` times as many.

    Args:
        single: what is `regressed` among them is judged anew.
    """

    def corrected(p_values: Sequence[float], alone: Sequence[float]) -> list[float]:
        adjusted = zip(holm(p_values), alone, strict=True)
        return [min(1.0, max(num_pairs * p, own)) for p, own in adjusted]

    falls = [change.p_value for change in single]
    both = [change.p_value * (1 if change.is_drift else 2) for change in single]
    rises = [change.p_rise for change in single]
    found = zip(
        single, corrected(falls, both), corrected(rises, [2 * p for p in rises]), strict=True
    )
    return tuple(_marked(change, fall, rise, level) for change, fall, rise in found)


def _marked(change: Change, p_holm: float, p_rise: float, level: float) -> Change:
    verdict = "undecided" if change.verdict == "regressed" else change.verdict
    return replace(
        change,
        p_holm=p_holm,
        verdict="regressed" if p_holm < level else verdict,
        improved=p_rise < level,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: max over j <= i of (m - j) * p_(j), at most 1, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
