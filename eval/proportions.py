"""Paired tests of items that are right or wrong: exact ones, and the score interval.

Of n items, `lost` were right before and wrong after, `won` the other way round; the gain is
(won - lost) / n. Nothing here rests on the spread of the items that happened to change, so that few
changed items, or none, make a test careful instead of certain.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

_NORMAL = NormalDist()
#: Beyond this no verdict hangs on the p-value, and the normal one will do.
_FAR = 0.1
#: Probability that the nuisance parameter lies outside of the range searched; it is added to p.
_OUTSIDE = 1e-5
_NUISANCES = 11
#: Tables with more cells have dozens of changed items on both sides, where z is normal enough.
_CELLS = 20_000


def mcnemar(lost: int, won: int) -> tuple[float, float]:
    """Exact one-sided p-values of "not worse" and "not better", given the items that changed.

    Under the null hypothesis each of the N changed items is a fair coin:
    p = P(Binomial(N, 1/2) >= count); 1 for both where nothing changed.
    """
    from scipy.special import bdtrc

    changed = lost + won
    worse, not_worse = (
        float(bdtrc(count - 1, changed, 0.5)) if count else 1.0 for count in (lost, won)
    )
    return worse, not_worse


def restricted_loss(lost: Any, won: Any, num_items: int, gain: float) -> Any:
    """Maximum-likelihood probability of losing an item if P(win) - P(loss) is `gain`.

    The larger root of 2n x^2 + B x + C with B = -(won + lost) + (2n - won + lost) gain and
    C = -lost gain (1 - gain). Counts may be arrays, and need not be whole.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """
    b = -(won + lost) + (2 * num_items - won + lost) * gain
    root = b * b + 8 * num_items * lost * gain * (1 - gain)
    return (((root + abs(root)) / 2) ** 0.5 - b) / (4 * num_items)


def score(lost: float, won: float, num_items: int, gain: float) -> float:
    """z = (won - lost - n gain) / sqrt(n (2 x + gain (1 - gain))), x of `restricted_loss`.

    0 where the null hypothesis itself leaves no item that could change.

    Source: Tango 1998.
    """
    loss = restricted_loss(lost, won, num_items, gain)
    variance = num_items * (2 * loss + gain * (1 - gain))
    return (won - lost - num_items * gain) / math.sqrt(variance) if variance > 1e-15 else 0.0


def score_interval(
    lost: int, won: int, num_items: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided interval of the gain: the gains that `score` does not reject."""
    limit = _NORMAL.inv_cdf((1 + confidence) / 2)
    middle = (won - lost) / num_items
    ends = []
    for outer, target in ((-1.0, limit), (1.0, -limit)):
        inner, far = middle, outer
        for _ in range(30):
            guess = (inner + far) / 2
            if abs(score(lost, won, num_items, guess)) < abs(target):
                inner = guess
            else:
                far = guess
        ends.append((inner + far) / 2)
    return ends[0], ends[1]


@lru_cache(maxsize=4096)
def score_test(lost: int, won: int, num_items: int, margin: float) -> tuple[float, float]:
    """One-sided p-values of "gain >= -margin" and "gain <= -margin", for a margin above 0.

    Tables are ordered by `score`; the p-value is the largest probability, over the chance of
    winning an item, of a table as far out or farther. That is exact, as the normal tail of the score
    is not where few items change: with 500 items, a margin of 0.02 and a level of 0.001 it rejects
    three times as often. The chance is searched within its 1 - 1e-5 interval, and 1e-5 is added.

    Source: Berger and Boos 1994, JASA 89:1012, for the search; Sidik 2003, Statistics in Medicine
    22:265, for exact unconditional tests of non-inferiority in matched pairs.
    """
    if margin >= 1:
        return 1.0, 0.0  # no share falls by more
    z = score(lost, won, num_items, -margin)
    worse, not_worse = _NORMAL.cdf(z), _NORMAL.cdf(-z)
    if worse < _FAR:
        worse = _tail(lost, won, num_items, margin, z, -1, worse)
    if not_worse < _FAR:
        not_worse = _tail(lost, won, num_items, margin, z, 1, not_worse)
    return worse, not_worse


def _tail(
    lost: int, won: int, num_items: int, margin: float, z: float, side: int, normal: float
) -> float:
    """Largest P(side * score >= side * z) over the chance of a win; `normal` for large tables."""
    import numpy as np
    from scipy.special import betaincinv, xlogy

    most = (1 - margin) / 2
    low = betaincinv(won, num_items - won + 1, _OUTSIDE / 2) if won else 0.0
    high = betaincinv(won + 1, num_items - won, 1 - _OUTSIDE / 2) if won < num_items else 1.0
    low, high = min(float(low), most), min(float(high), most)
    losses = _window(num_items, low + margin, high + margin)
    wins = _window(num_items, low, high)
    if len(losses) * len(wins) > _CELLS:
        return normal
    b, c = np.arange(losses.start, losses.stop)[:, None], np.arange(wins.start, wins.stop)[None]
    rest = num_items - b - c
    loss = restricted_loss(b, c, num_items, -margin)
    variance = num_items * (2 * loss - margin * (1 + margin))
    scores = (c - b + num_items * margin) / np.sqrt(np.maximum(variance, 1e-15))
    beyond = side * scores >= side * z - 1e-9
    logs = _log_factorials(num_items)
    ways = logs[-1] - logs[b] - logs[c] - logs[np.maximum(rest, 0)]
    kept = beyond & (rest >= 0)
    tables = [np.broadcast_to(each, kept.shape)[kept] for each in (b, c, rest, ways)]

    def probability(root: float) -> float:
        chance = root * root
        log_p = tables[3] + xlogy(tables[0], chance + margin) + xlogy(tables[1], chance)
        p = np.exp(log_p + xlogy(tables[2], max(0.0, 1 - 2 * chance - margin)))
        return float(p.sum())

    roots = np.linspace(math.sqrt(low), math.sqrt(high), _NUISANCES)
    found = [probability(root) for root in roots]
    best = int(np.argmax(found))  # and once more between its neighbours
    nearer = np.linspace(roots[max(0, best - 1)], roots[min(best + 1, len(roots) - 1)], _NUISANCES)
    largest = max(found[best], *(probability(root) for root in nearer))
    return min(1.0, largest + _OUTSIDE)


def _window(num_items: int, low: float, high: float) -> range:
    """Counts that a binomial with a chance between `low` and `high` leaves once in 1e7 or less."""
    few = num_items * low - 5.5 * math.sqrt(num_items * low)
    many = num_items * high + 5.5 * math.sqrt(num_items * high) + 12
    return range(max(0, math.floor(few)), min(num_items, math.ceil(many)) + 1)


@lru_cache(maxsize=64)
def _log_factorials(num_items: int) -> Any:
    import numpy as np
    from scipy.special import gammaln

    return gammaln(np.arange(num_items + 1) + 1.0)
