"""Student's t on items, or clusters of items, corrected for their skewness, with a floor of spread.

Which test holds its level was decided by simulation, on 20 to 200 differences: at a level of 0.05, where
many items lose a little and a few gain much (log-normal, 60 items), t rejects 12.7 % of the time, the
studentised sign-flip permutation 12.4 %, the studentised bootstrap 7.2 % and the corrected t 8.1 %;
where nine of ten differences are zero the bootstrap rejects 11 %, t 4.5 %. So the larger p-value of t
and corrected t is taken; it needs no random numbers. `tests/bench/false_alarms.py` measures levels again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from eval.matrix import Item
from eval.means import by_cluster, clusters, influences, spread, weighted_mean

_ROUNDING = 1e-12
_UPPER = NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Units:
    """Items, or clusters of items, as `skewed_t` sees them.

    Args:
        num: of units.
        num_changed: units in which any item changed.
        stderr: of the gain, with the floor.
        skewness: of the units' influences on the gain.
        item_share: sum(w_i^2) / sum(w_i)^2 over the items, 1 / n where all weights are 1.
        design: variance of the gain over that of items that stand alone, at least 1; of clusters the
            80 % upper limit of that.
        loss: what an item that fails loses, sum(v^2) / sum(v) over the v that it can lose; 1 for right
            or wrong items, 0 where values do not lie between 0 and 1.
    """

    num: int
    num_changed: int
    stderr: float
    skewness: float
    item_share: float
    design: float
    loss: float


def units_of(before: Sequence[Item], after: Sequence[Item], sign: int = 1) -> tuple[Units, float]:
    """What the items of a probe show together, and the plain standard error of the difference.

    The floor: where units did not change, the variance counts up to three of them as if they had, each
    moved as far as those that did (root mean square), since 3 is the 95 % upper limit of a count of
    which none was seen. Where none changed, a move is the whole unit for shares of 1, else the spread
    of the units themselves. Three are counted too where all moves are equal, and show no spread.
    """
    names = clusters(before)
    old, new = (influences(items, weighted_mean(items)) for items in (before, after))
    alone = [b - a for a, b in zip(old, new, strict=True)]
    moves = by_cluster(alone, names)
    raw = by_cluster(_contributions(before, after), names)
    touched = by_cluster(
        [float(a.value != b.value) for a, b in zip(before, after, strict=True)], names
    )
    is_share = all(0 <= item.value <= 1 for items in (before, after) for item in items)
    weight = math.fsum(item.weight for item in before)
    shares = [item.weight / weight for item in before]
    changed = [move for move, count in zip(raw, touched, strict=True) if count]
    if changed:
        size = _root_mean_square(changed)
    else:
        size = _root_mean_square(by_cluster(shares if is_share else old, names))
    stderr, single = spread(moves), spread(alone)
    unseen = min(3, len(moves) - len(changed)) if stderr else 3
    variance = stderr**2 + unseen * size**2
    cubes = sign * math.fsum(move**3 for move in moves) / len(moves)
    design = (stderr / single) ** 2 if single else len(alone) / len(moves)
    if names:
        design *= 1 + _UPPER * math.sqrt(2 / max(1, len(moves) - 1))
    return (
        Units(
            num=len(moves),
            num_changed=len(changed),
            stderr=math.sqrt(variance),
            skewness=cubes / (variance / len(moves)) ** 1.5 if variance else 0.0,
            item_share=math.fsum(share * share for share in shares),
            design=max(1.0, design),
            loss=_loss([i.value if sign > 0 else 1 - i.value for i in before]) if is_share else 0.0,
        ),
        stderr,
    )


def skewed_t(excess: float, stderr: float, num_units: int, skewness: float) -> tuple[float, float]:
    """One-sided p-values of "excess >= 0" and "excess <= 0"; 1 for both without any spread.

    The larger of those of t = excess / stderr and of g(t) = t + a t^2 + a^2 t^3 / 3 + a / 2 with
    a = skewness / (3 sqrt(n)), which takes the skewness of the mean out of t; n - 1 degrees of freedom.

    Source: Hall 1992, JRSS B 54:221, "On the removal of skewness by transformation".
    """
    if stderr <= _ROUNDING:
        return 1.0, 1.0
    from scipy.special import stdtr

    t, a = excess / stderr, skewness / (3 * math.sqrt(num_units))
    corrected = ((1 + a * t) ** 3 - 1) / (3 * a) + a / 2 if abs(a) > 1e-9 else t
    freedom = max(1, num_units - 1)
    worse = max(float(stdtr(freedom, t)), float(stdtr(freedom, corrected)))
    return worse, max(float(stdtr(freedom, -t)), float(stdtr(freedom, -corrected)))


def critical(level: float, num_units: int, skewness: float) -> tuple[float, float]:
    """How far t must fall below and rise above 0 for `skewed_t` to reject at a level, both positive."""
    from scipy.special import stdtrit

    limit = float(stdtrit(max(1, num_units - 1), 1 - level))
    a = skewness / (3 * math.sqrt(num_units))
    if abs(a) <= 1e-9:
        return limit, limit
    below, above = ((math.cbrt(1 + 3 * a * (end - a / 2)) - 1) / a for end in (-limit, limit))
    return max(limit, -below), max(limit, above)


def _contributions(before: Sequence[Item], after: Sequence[Item]) -> list[float]:
    """What each item adds to the difference of the means."""
    old, new = (math.fsum(item.weight for item in items) for items in (before, after))
    return [
        b.weight * b.value / new - a.weight * a.value / old
        for a, b in zip(before, after, strict=True)
    ]


def _loss(values: Sequence[float]) -> float:
    total = math.fsum(values)
    return math.fsum(value * value for value in values) / total if total else 1.0


def _root_mean_square(numbers: Sequence[float]) -> float:
    return math.sqrt(math.fsum(number * number for number in numbers) / len(numbers))
