"""Paired tests of any two results over the same items, and the interval that goes with them.

Right or wrong items of weight 1 that stand alone get the tests of `eval.proportions`. All else, such
as bits per byte, weighted items and items in clusters, gets `eval.skewed_t`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from eval.matrix import Item
from eval.means import weighted_mean
from eval.proportions import mcnemar, score, score_interval, score_test
from eval.skewed_t import Units, critical, skewed_t, units_of

_NORMAL = NormalDist()
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Two results over the same items, as gains: positive is better.

    Args:
        stderr: standard error of the gain, with the noise of measuring.
        low, high: two-sided 95 % interval of the gain.
        worse: one-sided p-value of the hypothesis "gain >= -margin".
        not_worse: one-sided p-value of the hypothesis "gain <= -margin".
        not_better: one-sided p-value of the hypothesis "gain <= 0".
        counts: items lost and won where the tests of proportions were used, else None.
        units: what `skewed_t` saw, else None.
        noise: see `compare`.
    """

    gain: float
    stderr: float
    low: float
    high: float
    worse: float
    not_worse: float
    not_better: float
    counts: tuple[int, int] | None
    units: Units | None
    noise: float

    @property
    def num_changed(self) -> int:
        """Items, or clusters of items, that changed."""
        return self.units.num_changed if self.units else sum(self.counts or ())


def compare(
    before: Sequence[Item], after: Sequence[Item], sign: int, margin: float, noise: float = 0.0
) -> Paired:
    """Test the gain of `after` over `before`, the same items in the same order.

    Args:
        sign: 1 where higher is better, else -1.
        noise: standard error that repeating the measurement adds, see `eval.noise`. The variances
            are added in `skewed_t`; a test of proportions also has to pass the normal test with
            both, and its interval is widened likewise.
    """
    delta = weighted_mean(after) - weighted_mean(before)
    if is_binary(before) and is_binary(after):
        return _proportions(before, after, sign * delta, sign, margin, noise)
    units, stderr = units_of(before, after, sign)
    total = math.hypot(units.stderr, noise)
    worse, not_worse = skewed_t(sign * delta + margin, total, units.num, units.skewness)
    _, not_better = skewed_t(sign * delta, total, units.num, units.skewness)
    low, high = _ends(sign * delta, total, units.num, units.skewness)
    return Paired(
        gain=sign * delta,
        stderr=math.hypot(stderr, noise),
        low=low,
        high=high,
        worse=worse,
        not_worse=not_worse,
        not_better=not_better,
        counts=None,
        units=units,
        noise=noise,
    )


def is_binary(items: Sequence[Item]) -> bool:
    """Whether items are right or wrong, count alike and stand alone."""
    kinds = {(item.value, item.weight, bool(item.cluster)) for item in items}
    return kinds <= {(0.0, 1.0, False), (1.0, 1.0, False)}


def _ends(gain: float, stderr: float, num_units: int, skewness: float) -> tuple[float, float]:
    """Interval of all gains that neither side of `skewed_t` rejects."""
    below, above = critical((1 - CONFIDENCE) / 2, num_units, skewness)
    return gain - above * stderr, gain + below * stderr


def _proportions(
    before: Sequence[Item],
    after: Sequence[Item],
    gain: float,
    sign: int,
    margin: float,
    noise: float,
) -> Paired:
    moves = [sign * (b.value - a.value) for a, b in zip(before, after, strict=True)]
    lost, won, num_items = moves.count(-1.0), moves.count(1.0), len(moves)
    at_margin = at_zero = mcnemar(lost, won)
    if margin:
        at_margin = score_test(lost, won, num_items, margin)
    low, high = score_interval(lost, won, num_items)
    if noise:
        at_zero = _noisy(at_zero, lost, won, num_items, 0.0, noise)
        if margin < 1:
            at_margin = _noisy(at_margin, lost, won, num_items, -margin, noise)
        extra = noise * _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
        low = gain - math.hypot(gain - low, extra)
        high = gain + math.hypot(high - gain, extra)
    # The score is a normal approximation: where an exact test is known, the interval ends as that says,
    # so that no verdict contradicts it.
    side = (1 - CONFIDENCE) / 2
    for point, (no_less, no_more) in ((-margin, at_margin), (0.0, at_zero)):
        high = max(high, point) if no_less > side else min(high, point)
        low = min(low, point) if no_more > side else max(low, point)
    squares = max(0.0, (lost + won) / num_items - gain * gain)
    plain = math.sqrt(squares / (num_items - 1)) if num_items > 1 else 0.0
    return Paired(
        gain=gain,
        stderr=math.hypot(plain, noise),
        low=low,
        high=high,
        worse=at_margin[0],
        not_worse=at_margin[1],
        not_better=at_zero[1],
        counts=(lost, won),
        units=None,
        noise=noise,
    )


def _noisy(
    exact: tuple[float, float], lost: int, won: int, num_items: int, gain: float, noise: float
) -> tuple[float, float]:
    """The larger p-values of "no less" and "no more" than a gain: the exact ones, or z's with the noise."""
    z, excess = score(lost, won, num_items, gain), (won - lost) / num_items - gain
    stderr = abs(excess / z) if z else math.sqrt(lost + won) / num_items
    z = excess / math.hypot(stderr, noise)
    return max(exact[0], _NORMAL.cdf(z)), max(exact[1], _NORMAL.cdf(-z))
