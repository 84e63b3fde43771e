"""What a number of items can show: the smallest fall that is found, and the items that would do.

Everything is at the level that is left for one of many probes when none other regressed, which is
that of Holm's first step, level / number of tests, and at a power of 0.8.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

from eval.paired import Paired
from eval.proportions import restricted_loss
from eval.skewed_t import Units, critical

POWER = 0.8
_UNIT_POWER, _SKEWNESS = 0.85, 1.75
_NORMAL = NormalDist()


def detectable(found: Paired, num_items: int, margin: float, level: float) -> float:
    """The fall beyond the margin that is found with a probability of 0.8; may be out of reach.

    Args:
        level: of this one test, after the correction.
    """
    needed = _items_for(found, num_items, margin, level)
    low, high = 0.0, 1.0
    while needed(high) > num_items:
        low, high = high, 2 * high
    for _ in range(30):
        guess = (low + high) / 2
        if needed(guess) > num_items:
            low = guess
        else:
            high = guess
    return high


def items_needed(found: Paired, num_items: int, margin: float, level: float) -> int | None:
    """Items with which a fall of twice the margin is found with a probability of 0.8.

    Where nothing changed, as many show `held` more often than that, since its level is larger. None
    without a margin, where no number of items shows that nothing changed.
    """
    if margin == 0:
        return None
    return max(1, math.ceil(_items_for(found, num_items, margin, level)(margin)))


def upper_count(count: int, confidence: float) -> float:
    """Upper limit of a Poisson mean of which `count` was seen; 3.0 for none at 95 %.

    (n + 1) (1 - 1 / (9 (n + 1)) + z / (3 sqrt(n + 1)))^3

    Source: Wilson and Hilferty 1931, PNAS 17:684.
    """
    more, z = count + 1, _NORMAL.inv_cdf(confidence)
    return more * (1 - 1 / (9 * more) + z / (3 * math.sqrt(more))) ** 3


def _items_for(
    found: Paired, num_items: int, margin: float, level: float
) -> Callable[[float], float]:
    """Items that find a fall of margin + excess, as a function of the excess."""
    if found.counts is None:
        assert found.units is not None
        return _of_units(found.units, found.noise, num_items, margin, level)
    return _of_proportions(found.counts[1], found.noise, num_items, margin, level)


def _of_proportions(
    won: int, noise: float, num_items: int, margin: float, level: float
) -> Callable[[float], float]:
    """Items for which the score of the expected table exceeds its critical value by z(0.8).

    With the chance w of winning an item and w + D of losing it, D = margin + excess:
    n excess = sqrt(n) (z(level) s0 + z(0.8) s1) + k, where s1^2 = 2w + D - D^2, s0 is the spread under
    the hypothesis D = margin (`restricted_loss` of the expected table), and k counts what the exact
    test asks for beyond that: one item for its steps, and (z^2 - 1) / 6 times skewness over variance.
    w is the 80 % upper limit of the wins seen, so that few changed items promise little.
    """
    z, z_power = _NORMAL.inv_cdf(1 - level), _NORMAL.inv_cdf(POWER)
    most_wins, extra = upper_count(won, POWER) / num_items, num_items * noise * noise

    def needed(excess: float) -> float:
        fall = min(1.0, margin + excess)
        wins = min(most_wins, (1 - fall) / 2)
        loss = restricted_loss(wins + fall, wins, 1, -margin)
        null = max(1e-12, 2 * loss - margin * (1 + margin))
        steps = 1 + (z * z - 1) / 6 * margin / null
        slope = z * math.sqrt(null + extra)
        slope += z_power * math.sqrt(2 * wins + fall - fall * fall + extra)
        root = (slope + math.sqrt(slope * slope + 4 * excess * steps)) / (2 * excess)
        return root * root

    return needed


def _of_units(
    units: Units, noise: float, num_items: int, margin: float, level: float
) -> Callable[[float], float]:
    """Items for which excess = (critical(level) + t(0.85)) stderr, with n - 1 degrees of freedom.

    A fall D of shares of 1 is made of items that fail, which adds D (loss - D) to the variance of an
    item; that of other numbers is taken to move all items alike. The spread and the skewness of the
    items to come are not those of the items seen: with 0.85 in place of 0.8, and the skewness taken
    1.75 times, falls are found as often as is said, by simulation (50 to 300 items, up to the skewness
    of an exponential).
    """
    from scipy.special import stdtrit

    below, _ = critical(level, units.num, _SKEWNESS * units.skewness)
    size = below + float(stdtrit(max(1, units.num - 1), _UNIT_POWER))
    variance = units.stderr**2 + noise**2
    share = units.design * units.item_share

    def needed(excess: float) -> float:
        fall = min(units.loss, margin + excess)
        failed = share * fall * (units.loss - fall)
        return num_items * (variance + failed) * (size / excess) ** 2

    return needed
