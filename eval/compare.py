"""Did a probe change between two checkpoints? Paired tests over items, corrected for many probes.

The hypothesis is always one-sided, "no worse than the margin", and direction is taken out first:
`gain` is positive when the later checkpoint is better.

Source: methods card B17 (regression gate); Holm 1979 for the correction.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from cpt.errors import ProbeError
from eval.matrix import Item, Row, Score, check_score

POWER = 0.8
_NORMAL = NormalDist()
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Change:
    """One probe between two rows.

    Args:
        delta: after minus before, in the metric's own direction.
        gain: `delta` with its sign turned where lower is better.
        stderr: standard error of the paired difference.
        p_value: one-sided, of the hypothesis "no worse than the margin".
        p_holm: `p_value` after Holm over all probes of the pair.
        improved: the two-sided 95 % interval of the gain lies above 0.
        detectable: the smallest fall below the margin that this many items show with 80 % power.
    """

    probe: str
    before: str
    after: str
    delta: float
    gain: float
    stderr: float
    margin: float
    p_value: float
    p_holm: float
    verdict: Literal["regressed", "held", "undecided"]
    improved: bool
    detectable: float
    num_items: int


def changes(before: Row, after: Row, margin: float, level: float = 0.05) -> tuple[Change, ...]:
    """Compare two rows probe by probe, over the probes that both have, in the order of `before`.

    Args:
        margin: how far a probe may fall before it counts; a probe's own margin goes first.
        level: of the test, and of the non-inferiority that `held` shows.

    Raises:
        ProbeError: a probe was measured differently in the two rows, or a score is no number.
    """
    if margin < 0 or not 0 < level < 1:
        raise ProbeError(f"margin {margin} must be >= 0 and level {level} between 0 and 1")
    shared = [probe for probe in before.scores if probe in after.scores]
    single = [_change(before, after, probe, margin, level) for probe in shared]
    corrected = holm([change.p_value for change in single])
    return tuple(
        replace(change, p_holm=p_holm, verdict="regressed" if p_holm < level else change.verdict)
        for change, p_holm in zip(single, corrected, strict=True)
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


def weighted_mean(items: Iterable[Item]) -> float:
    """sum(weight * value) / sum(weight)."""
    pairs = [(item.weight, item.value) for item in items]
    return math.fsum(w * v for w, v in pairs) / math.fsum(w for w, _ in pairs)


def paired_difference(before: Sequence[Item], after: Sequence[Item]) -> tuple[float, float]:
    """Difference of two weighted means over the same items, and its standard error.

    With R = sum(w v) / sum(w), item i moves the difference by
    e_i = w_i (v_i - R) / sum(w) of `after` minus the same of `before` (the linearised ratio), and
    the variance is n / (n - 1) * sum(e_i^2); weights of 1 give the paired t formula s / sqrt(n).
    """
    mean_before, mean_after = weighted_mean(before), weighted_mean(after)
    moves = [
        new - old
        for old, new in zip(
            _influences(before, mean_before), _influences(after, mean_after), strict=True
        )
    ]
    stderr = math.sqrt(_scale(len(moves)) * math.fsum(move * move for move in moves))
    return mean_after - mean_before, stderr if stderr > _ROUNDING else 0.0


def ratio_stderr(items: Sequence[Item]) -> float:
    """Standard error of `weighted_mean`, linearised; s / sqrt(n) where all weights are 1."""
    influences = _influences(items, weighted_mean(items))
    return math.sqrt(_scale(len(influences)) * math.fsum(e * e for e in influences))


def _influences(items: Sequence[Item], mean: float) -> list[float]:
    total = math.fsum(item.weight for item in items)
    return [item.weight * (item.value - mean) / total for item in items]


def _scale(num_items: int) -> float:
    return num_items / (num_items - 1) if num_items > 1 else 0.0


def _change(before: Row, after: Row, probe: str, margin: float, level: float) -> Change:
    """One probe, not yet corrected for the others."""
    old, new = before.scores[probe], after.scores[probe]
    old_items, new_items = _pair(before, after, old, new)
    margin = margin if new.margin is None else new.margin
    delta, stderr = paired_difference(old_items, new_items)
    gain = delta if new.higher_is_better else -delta
    sign = 1 if new.higher_is_better else -1
    gains = [sign * (b.value - a.value) for a, b in zip(old_items, new_items, strict=True)]
    if margin == 0 and _is_binary(old_items) and _is_binary(new_items):
        worse, p_not_worse = _mcnemar(gains)
    else:
        worse, p_not_worse = _z_test(gain, stderr, margin)
    z_level, z_power = _NORMAL.inv_cdf(1 - level), _NORMAL.inv_cdf(POWER)
    return Change(
        probe=probe,
        before=before.stage,
        after=after.stage,
        delta=delta,
        gain=gain,
        stderr=stderr,
        margin=margin,
        p_value=worse,
        p_holm=worse,
        verdict="held" if p_not_worse < level else "undecided",
        improved=gain - _NORMAL.inv_cdf(0.975) * stderr > _ROUNDING,
        detectable=(z_level + z_power) * stderr,
        num_items=len(gains),
    )


def _pair(before: Row, after: Row, old: Score, new: Score) -> tuple[list[Item], list[Item]]:
    for score in (old, new):
        check_score(score)
    if old.fingerprint != new.fingerprint:
        raise ProbeError(
            f"probe {old.probe} was measured differently for {before.stage} ({old.fingerprint}) "
            f"and {after.stage} ({new.fingerprint}): its task, data, shots or template changed; "
            f"probe both again"
        )
    later = {item.id: item for item in new.items}
    shared = [item for item in old.items if item.id in later]
    if not shared:
        raise ProbeError(f"probe {old.probe}: {before.stage} and {after.stage} share no item")
    return shared, [later[item.id] for item in shared]


def _is_binary(items: Sequence[Item]) -> bool:
    return all(item.value in (0.0, 1.0) and item.weight == 1 for item in items)


def _mcnemar(gains: Sequence[float]) -> tuple[float, float]:
    """Exact one-sided p-values of "not worse" and "not better", given the items that changed.

    Under the null hypothesis each of the n changed items is a fair coin:
    p = P(Binomial(n, 1/2) >= count).
    """
    lost, won = sum(gain < 0 for gain in gains), sum(gain > 0 for gain in gains)
    if lost + won == 0:
        return 1.0, 0.0

    def at_least(count: int) -> float:
        ways = sum(math.comb(lost + won, k) for k in range(count, lost + won + 1))
        return float(ways / 2 ** (lost + won))

    return at_least(lost), at_least(won)


def _z_test(gain: float, stderr: float, margin: float) -> tuple[float, float]:
    """One-sided p-values of "gain >= -margin" and "gain <= -margin"; certain where stderr is 0."""
    if stderr == 0:
        return (0.0, 1.0) if gain < -margin - _ROUNDING else (1.0, 0.0)
    z = (gain + margin) / stderr
    return _NORMAL.cdf(z), _NORMAL.cdf(-z)
