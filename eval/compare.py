"""Did a probe change between two checkpoints? Paired tests over items, corrected for many probes.

The hypothesis is always one-sided, "no worse than the margin", and direction is taken out first:
`gain` is positive when the later checkpoint is better. `eval.paired` says which test a probe gets.

`regressed` is corrected and `held` is not. One false `regressed` among all probes stops a chain, so the
chance of any is what is kept at the level. `held` acts on nothing, and "every probe held" is wrong
only if some probe that fell too far is called held, whose own test is at the level; such a conjunction
of tests needs no correction (Berger 1982, Technometrics 24:295).

Source: methods card B17 (regression gate); Holm 1979 for the correction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cpt.errors import ProbeError
from eval.matrix import Item, Row, Score, check_score
from eval.means import paired_difference, ratio_stderr, weighted_mean
from eval.paired import compare
from eval.power import detectable, items_needed

if TYPE_CHECKING:
    from eval.noise import Noise

__all__ = [
    "Change",
    "changes",
    "holm",
    "paired_difference",
    "paired_items",
    "ratio_stderr",
    "shifts",
    "weighted_mean",
]

_ROUNDING = 1e-12


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
        p_holm: `p_value` after Holm over all probes of the pair, times the number of pairs.
        improved: the interval of the gain lies above 0.
        detectable: the smallest fall below the margin that is found with 80 % power at `level`.
        level: what Holm leaves for the smallest p-value: the family's level over its tests; half of
            that for a drift, which is tested on both sides.
        higher_is_better: of the score; of a drift, whether it moved down.
        num_items_needed: with which twice the margin is found so; None without a margin.
        num_changed: items, or clusters of items, whose value is not the same.
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

    @property
    def gain_low(self) -> float:
        """Lower end of the 95 % interval of the gain."""
        return self.low if self.higher_is_better else -self.high

    @property
    def gain_high(self) -> float:
        """Upper end of the 95 % interval of the gain."""
        return self.high if self.higher_is_better else -self.low


def changes(
    before: Row,
    after: Row,
    margin: float,
    level: float = 0.05,
    *,
    num_pairs: int = 1,
    noise: "Mapping[str, Noise] | None" = None,
) -> tuple[Change, ...]:
    """Compare two rows probe by probe, over the probes that both have, in the order of `before`.

    Drifts without a margin of their own are left out; see `shifts`.

    Args:
        margin: how far a probe may fall before it counts; a probe's own margin goes first.
        level: of the test, and of the non-inferiority that `held` shows.
        num_pairs: pairs of rows among whose probes at most one in 1 / level families may have a false
            `regressed`, such as all stages of a chain against its base. Each pair gets an equal part
            of the level, so that a verdict stands when the next stage is measured.
        noise: of two measurements of one checkpoint, see `eval.noise`; where items differed, it is
            added to the standard errors.

    Raises:
        ProbeError: a probe was measured differently in the two rows, or a score is no number.
    """
    if margin < 0 or not 0 < level < 1 or num_pairs < 1:
        raise ProbeError(
            f"margin {margin} must be >= 0, level {level} between 0 and 1 and num_pairs "
            f"{num_pairs} >= 1"
        )
    both = [probe for probe in before.scores if probe in after.scores]
    shared = [probe for probe in both if after.scores[probe].is_judged]
    tested = level / (num_pairs * max(1, len(shared)))
    floors = noise or {}
    single = [
        _change(before, after, probe, margin, floors.get(probe), level, tested) for probe in shared
    ]
    corrected = [min(1.0, num_pairs * p) for p in holm([change.p_value for change in single])]
    return tuple(
        replace(change, p_holm=p_holm, verdict="regressed" if p_holm < level else change.verdict)
        for change, p_holm in zip(single, corrected, strict=True)
    )


def shifts(before: Row, after: Row, level: float = 0.05) -> tuple[Change, ...]:
    """How far the drifts moved that `changes` leaves out; they are not judged, so all are `undecided`.

    `p_value` is two-sided, of "no change", and `p_holm` is corrected over these probes alone.

    Raises:
        ProbeError: a probe was measured differently in the two rows, or a score is no number.
    """
    both = [probe for probe in before.scores if probe in after.scores]
    shared = [probe for probe in both if not after.scores[probe].is_judged]
    tested = level / max(1, len(shared))
    single = [_change(before, after, probe, 0.0, None, level, tested) for probe in shared]
    corrected = holm([change.p_value for change in single])
    return tuple(
        replace(change, p_holm=p_holm, verdict="undecided")
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


def paired_items(before: Row, after: Row, probe: str) -> tuple[list[Item], list[Item]]:
    """The items of a probe that both rows have, in the order of `before`.

    Raises:
        ProbeError: the probe was measured differently in the two rows, or they share no item.
    """
    old, new = before.scores[probe], after.scores[probe]
    for score in (old, new):
        check_score(score)
    _check_same(before, after, old, new)
    later = {item.id: item for item in new.items}
    shared = [item for item in old.items if item.id in later]
    if not shared:
        raise ProbeError(f"probe {old.probe}: {before.stage} and {after.stage} share no item")
    return shared, [later[item.id] for item in shared]


def _check_same(before: Row, after: Row, old: Score, new: Score) -> None:
    """Refuse scores that were measured differently, and name what differs where that is known."""
    both = [key for key in old.parts if key in new.parts]
    differing = [key for key in both if old.parts[key] != new.parts[key]]
    if old.fingerprint == new.fingerprint and not differing:
        return
    if differing:
        hint = " with one --dtype" if "dtype" in differing else ""
        what = "; ".join(_differs(key, old.parts[key], new.parts[key]) for key in differing)
        raise ProbeError(
            f"probe {old.probe} was measured differently for {before.stage} and {after.stage} "
            f"({what}); probe both again{hint}"
        )
    raise ProbeError(
        f"probe {old.probe} was measured differently for {before.stage} ({old.fingerprint}) "
        f"and {after.stage} ({new.fingerprint}): its task, data, shots or template changed; "
        f"probe both again"
    )


def _differs(key: str, old: str, new: str) -> str:
    """Such as `shots: 0, not 5`; without texts that are alike as far as they are shown."""
    lines = [" ".join(text.split()) for text in (old, new)]
    brief = [line if len(line) <= 40 else f"{line[:37]}..." for line in lines]
    return f"{key} differs" if brief[0] == brief[1] else f"{key}: {brief[0]}, not {brief[1]}"


def _change(
    before: Row,
    after: Row,
    probe: str,
    margin: float,
    floor: "Noise | None",
    level: float,
    tested: float,
) -> Change:
    """One probe, not yet corrected for the others; `tested` is the level of Holm's first step."""
    old_items, new_items = paired_items(before, after, probe)
    new = after.scores[probe]
    margin = margin if new.margin is None else new.margin
    sign = 1 if new.higher_is_better else -1
    if new.is_drift:
        sign = -1 if weighted_mean(new_items) > weighted_mean(old_items) else 1
        tested /= 2
    found = compare(old_items, new_items, sign, margin, floor.stderr if floor else 0.0)
    low, high = (found.low, found.high) if sign == 1 else (-found.high, -found.low)
    # A drift is tested on both sides, of which the one it moved to has the smaller p-value.
    p_value = min(1.0, 2 * found.worse) if new.is_drift else found.worse
    not_worse = found.not_worse
    if new.is_drift:  # it must be shown on both sides that it lies within the margin
        other = compare(old_items, new_items, -sign, margin, floor.stderr if floor else 0.0)
        not_worse = max(not_worse, other.not_worse)
    return Change(
        probe=probe,
        before=before.stage,
        after=after.stage,
        delta=sign * found.gain,
        gain=found.gain,
        low=low,
        high=high,
        stderr=found.stderr,
        margin=margin,
        p_value=p_value,
        p_holm=p_value,
        verdict="held" if not_worse < level else "undecided",
        improved=not new.is_drift and found.low > _ROUNDING,
        detectable=detectable(found, len(new_items), margin, tested),
        level=tested,
        num_items=len(new_items),
        num_changed=found.num_changed,
        num_items_needed=items_needed(found, len(new_items), margin, tested),
        higher_is_better=sign == 1,
    )
