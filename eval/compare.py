"""Did a probe change between two checkpoints? Paired tests over items, corrected for many probes.

The hypothesis is always one-sided, "no worse than the margin", and direction is taken out first:
`gain` is positive when the later checkpoint is better. `eval.paired` says which test a probe gets,
`eval.change` how verdicts are corrected.

Source: methods card B17 (regression gate).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cpt.errors import ProbeError
from eval.change import Change, holm, judged
from eval.matrix import Row
from eval.means import weighted_mean
from eval.paired import compare
from eval.pairs import paired_items
from eval.power import detectable, items_needed

if TYPE_CHECKING:
    from eval.noise import Noise


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
        level: of the corrected tests; `held` is shown at half of it.
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
    tested = level / max(1, num_pairs * len(shared))
    floors = noise or {}
    single = [
        _change(before, after, probe, margin, floors.get(probe), level, tested) for probe in shared
    ]
    return judged(single, level, num_pairs)


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
    else:
        tested = min(tested, level / 2)
    found = compare(old_items, new_items, sign, margin, floor.stderr if floor else 0.0)
    low, high = (found.low, found.high) if sign == 1 else (-found.high, -found.low)
    p_value, not_worse = found.worse, found.not_worse
    if new.is_drift:
        # It is tested on both sides, of which the one it moved to has the smaller p-value, and is held
        # where it is within the margin on both.
        p_value = min(1.0, 2 * p_value)
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
        verdict="held" if not_worse < level / 2 else "undecided",
        improved=False,
        detectable=detectable(found, len(new_items), margin, tested),
        level=tested,
        num_items=len(new_items),
        num_changed=found.num_changed,
        num_items_needed=items_needed(found, len(new_items), margin, tested),
        higher_is_better=sign == 1,
        is_drift=new.is_drift,
        num_units=found.units.num if found.units else None,
        p_rise=1.0 if new.is_drift else found.not_better,
    )
