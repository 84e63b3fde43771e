"""What a number of items can show: the smallest fall that is found, and the items that would do.

Everything is at the level that is left for one of many probes when none other regressed, which is
that of Holm's first step, level / number of tests, and at a power of 0.8.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

from eval.paired import Paired
from eval.proportions import restricted_loss, score
from eval.skewed_t import LEAST_UNITS, critical

POWER = 0.8
_UNIT_POWER, _SKEWNESS = 0.85, 1.25
_NORMAL = NormalDist()


def detectable(found: Paired, num_items: int, margin: float, level: float) -> float:
    """The fall beyond the margin that is found with a probability of 0.8; may be out of reach.

    At most 1 for right or wrong items.

    Args:
        level: of this one test, after the correction.
    """
    if found.counts is not None:
        if margin >= 1:
            return 1.0
        fall = _fall_of_proportions(found.counts[1], found.noise, num_items, margin, level)
        return min(1.0, fall)
    needed = _items_of_units(found, num_items, margin, level, num_items)
    return _smallest(lambda excess: needed(excess) <= num_items)


def items_needed(found: Paired, num_items: int, margin: float, level: float) -> int | None:
    """Items with which a fall of twice the margin is found with a probability of 0.8.

    Where nothing changed, as many show `held` more often than that, since its level is larger. None
    without a margin, where no number of items shows that nothing changed, and where no fall of right or
    wrong items can exceed it.
    """
    if margin == 0 or (found.counts and margin >= 1):
        return None
    if found.counts is not None:
        needed = _items_of_proportions(found.counts[1], found.noise, num_items, margin, level)
    else:
        assert found.units is not None
        # not so few that no number of them would show anything
        fewest = LEAST_UNITS * num_items / found.units.num
        needed = _smallest(
            lambda n: n >= max(fewest, _items_of_units(found, num_items, margin, level, n)(margin)),
            fewest,
        )
    return max(1, math.ceil(needed))


def upper_count(count: int, confidence: float) -> float:
    """Upper limit of a Poisson mean of which `count` was seen; 3.0 for none at 95 %.

    (n + 1) (1 - 1 / (9 (n + 1)) + z / (3 sqrt(n + 1)))^3

    Source: Wilson and Hilferty 1931, PNAS 17:684.
    """
    more, z = count + 1, _NORMAL.inv_cdf(confidence)
    return more * (1 - 1 / (9 * more) + z / (3 * math.sqrt(more))) ** 3


def _fall_of_proportions(
    won: int, noise: float, num_items: int, margin: float, level: float
) -> float:
    """The excess at which the losses exceed their critical count with a probability of 0.8.

    With c expected wins, b losses are critical where score(b, c) = -z(level). The chance D = margin +
    excess of a fall is the one for which n D - z(0.8) sqrt(n (2w + D - D^2)) = b - c + k with w = c / n
    and k what the exact test asks for beyond the score: one item for its steps, and (z^2 - 1) / 6 times
    skewness over variance. c is the 80 % upper limit of the wins seen, so that few changed items
    promise little.
    """
    z = _NORMAL.inv_cdf(1 - level)
    wins = min(upper_count(won, POWER), 0.4 * num_items)
    losses = _smallest(lambda lost: score(lost, wins, num_items, -margin) <= -z, wins + 1)
    loss = restricted_loss(losses, wins, num_items, -margin)
    skewness = margin / max(1e-12, 2 * loss - margin * (1 + margin))
    beyond = math.hypot(losses - wins - num_items * margin, z * num_items * noise)
    beyond += 1 + (z * z - 1) / 6 * skewness

    def is_found(excess: float) -> bool:
        fall = min(1.0, margin + excess)
        variance = num_items * (2 * wins / num_items + fall - fall * fall)
        spread = math.hypot(math.sqrt(variance), num_items * noise)
        return bool(num_items * excess - _NORMAL.inv_cdf(POWER) * spread >= beyond)

    return _smallest(is_found)


def _items_of_proportions(
    won: int, noise: float, num_items: int, margin: float, level: float
) -> float:
    """n of n D = sqrt(n) (z(level) s0 + z(0.8) s1) + k with D twice the margin.

    As many items as that leave dozens of losses: s0 is the spread under the hypothesis, of the
    expected table, and s1^2 = 2w + D - D^2. See `_fall_of_proportions` for w and k.
    """
    z, fall = _NORMAL.inv_cdf(1 - level), min(1.0, 2 * margin)
    wins = min(upper_count(won, POWER) / num_items, (1 - fall) / 2)
    loss = restricted_loss(wins + fall, wins, 1, -margin)
    null = 2 * loss - margin * (1 + margin)
    extra = num_items * noise * noise
    slope = z * math.sqrt(null + extra)
    slope += _NORMAL.inv_cdf(POWER) * math.sqrt(2 * wins + fall - fall * fall + extra)
    steps = 1 + (z * z - 1) / 6 * margin / null
    root = (slope + math.sqrt(slope * slope + 4 * margin * steps)) / (2 * margin)
    return root * root


def _items_of_units(
    found: Paired, num_items: int, margin: float, level: float, planned: float
) -> Callable[[float], float]:
    """Items for which excess = (critical(level) + t(0.85)) stderr, with the quantiles of `planned` items.

    A fall D of shares of 1 is made of items that fail, which adds D (loss - D) to the variance of an
    item; that of other numbers is taken to move all items alike. The spread and the skewness of the
    items to come are not those of the items seen: with 0.85 in place of 0.8, and the skewness taken
    1.25 times on top of its upper limit, falls are meant to be found as often as is said;
    `tests/bench/false_alarms.py` measures how often they are.
    """
    from scipy.special import stdtrit

    units = found.units
    assert units is not None
    num_units = max(2.0, planned * units.num / num_items)
    below, _ = critical(level, num_units, _SKEWNESS * units.skewness)
    size = below + float(stdtrit(num_units - 1, _UNIT_POWER))
    variance = units.stderr**2 + found.noise**2
    share = units.design * units.item_share

    def needed(excess: float) -> float:
        fall = min(units.loss, margin + excess)
        failed = share * fall * (units.loss - fall)
        return num_items * (variance + failed) * (size / excess) ** 2

    return needed


def _smallest(is_enough: Callable[[float], bool], first: float = 1.0) -> float:
    """The smallest positive number that is enough, where all larger ones are."""
    low, high = 0.0, first
    while not is_enough(high):
        low, high = high, 2 * high
    for _ in range(30):
        guess = (low + high) / 2
        low, high = (low, guess) if is_enough(guess) else (guess, high)
    return high
