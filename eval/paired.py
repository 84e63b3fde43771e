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
    low, high = _ends(sign * delta, total, units.num, units.skewness)
    return Paired(
        gain=sign * delta,
        stderr=math.hypot(stderr, noise),
        low=low,
        high=high,
        worse=worse,
        not_worse=not_worse,
        counts=None,
        units=units,
        noise=noise,
    )


def is_binary(items: Sequence[Item]) -> bool:
    """Whether items are right or wrong, count alike and stand alone."""
    return all(item.value in (0.0, 1.0) and item.weight == 1 and not item.cluster for item in items)


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
    no_fall, no_rise = mcnemar(lost, won)
    worse, not_worse = no_fall, no_rise
    if margin:
        worse, not_worse = score_test(lost, won, num_items, margin)
    low, high = score_interval(lost, won, num_items)
    if noise and margin < 1:
        z = score(lost, won, num_items, -margin)
        stderr = abs((gain + margin) / z) if z else math.sqrt(lost + won) / num_items
        z = (gain + margin) / math.hypot(stderr, noise)
        worse, not_worse = max(worse, _NORMAL.cdf(z)), max(not_worse, _NORMAL.cdf(-z))
        extra = noise * _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
        low = gain - math.hypot(gain - low, extra)
        high = gain + math.hypot(high - gain, extra)
    # The score is a normal approximation: what the exact tests do not reject belongs to the interval.
    side = (1 - CONFIDENCE) / 2
    for point, no_less, no_more in ((-margin, worse, not_worse), (0.0, no_fall, no_rise)):
        high = max(high, point) if no_less > side else high
        low = min(low, point) if no_more > side else low
    squares = max(0.0, (lost + won) / num_items - gain * gain)
    plain = math.sqrt(squares / (num_items - 1)) if num_items > 1 else 0.0
    return Paired(
        gain=gain,
        stderr=math.hypot(plain, noise),
        low=low,
        high=high,
        worse=worse,
        not_worse=not_worse,
        counts=(lost, won),
        units=None,
        noise=noise,
    )
