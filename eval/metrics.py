"""Metrics of continual learning on an array of scores: one number per checkpoint and probe.

`scores` is [..., rows, probes]: row 0 is the base model, before any stage, the last row is the final
checkpoint R_T. Higher is better everywhere: `upwards` turns losses round first. Axes in front are
resamples, see `eval.resample`. `learnt` holds, per probe, the row of the stage that teaches it.
`descent` says which row came of which (`eval.descent`); all rows but those of `tax` have to have led to
the last one, and without it each came of the one before.

Source: methods cards A16 to A19; Lopez-Paz and Ranzato 2017, arXiv:1706.08840 (BWT, FWT; the mean
is over T - 1 entries, where their script divides by T); Chaudhry et al. 2018, arXiv:1801.10112
(forgetting).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpt.errors import ProbeError
from eval.descent import Descent, line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[Any]

#: Scores that are nearer to 0 give no ratio.
SMALLEST = 0.01


def upwards(scores: "Scores", higher_is_better: Sequence[bool]) -> "Scores":
    """The scores with those of losses negated, so that higher is better."""
    import numpy as np

    found: Scores = scores * np.where(higher_is_better, 1.0, -1.0)
    return found


def average(scores: "Scores") -> "Scores":
    """AA = mean_j R_{T,j}, over the probes given."""
    found: Scores = scores[..., -1, :].mean(-1)
    return found


def backward_transfer(scores: "Scores", learnt: Sequence[int]) -> "Scores":
    """BWT = mean of R_{T,j} - R_{j,j} over probes learnt before the last stage; below 0 is loss.

    Raises:
        ProbeError: every probe is learnt in the last stage.
    """
    columns = _earlier(scores, learnt, "backward transfer")
    return _mean(scores[..., -1, j] - scores[..., learnt[j], j] for j in columns)


def forward_transfer(
    scores: "Scores", learnt: Sequence[int], descent: Descent | None = None
) -> "Scores":
    """FWT = mean of R_{j-1,j} - R_{0,j} over probes learnt after the first stage.

    What earlier stages gave a skill before it was taught, against the untouched base; j-1 is the row
    that the stage started from.

    Raises:
        ProbeError: every probe is learnt in a stage that started from the base.
    """
    before = (descent or line(scores.shape[-2])).before
    columns = [j for j, row in enumerate(learnt) if before[row] > 0]
    if not columns:
        raise ProbeError("forward transfer needs a probe that a stage after the first one teaches")
    return _mean(scores[..., before[learnt[j]], j] - scores[..., 0, j] for j in columns)


def forgetting(
    scores: "Scores", learnt: Sequence[int], descent: Descent | None = None, *, fixed: bool = False
) -> "Scores":
    """F = mean of max_{j<=l<T} R_{l,j} - R_{T,j} over probes learnt before the last stage.

    Against the best so far, since a probe may rise again after its own stage; so F is not -BWT. The l
    are the rows that came of the one which learnt the probe.

    Args:
        fixed: the best is the row that is best in the first of the scores, in all of them.

    Raises:
        ProbeError: every probe is learnt in the last stage.
    """
    led_to = (descent or line(scores.shape[-2])).led_to
    parts = []
    for j in _earlier(scores, learnt, "forgetting"):
        since = [row for row in range(scores.shape[-2] - 1) if learnt[j] in led_to[row]]
        best = scores[..., since, j]
        best = best[..., best[0].argmax()] if fixed else best.max(-1)
        parts.append(best - scores[..., -1, j])
    return _mean(parts)


def drops(scores: "Scores") -> "Scores":
    """max_l R_{l,j} - R_{T,j} for every probe [..., probes]; the worst probe has the largest."""
    found: Scores = scores.max(-2) - scores[..., -1, :]
    return found


def falls(scores: "Scores") -> "Scores":
    """R_{l,j} - R_{T,j} [..., probes] from the row l < T that is best in the first of the scores.

    Below 0 where the last row is the best; for scores [resamples, rows, probes].
    """
    best = scores[0, :-1].argmax(0)
    found: Scores = scores[:, best, range(len(best))] - scores[:, -1]
    return found


def incremental_average(
    scores: "Scores", learnt: Sequence[int], descent: Descent | None = None
) -> "Scores":
    """Mean over stages i of the mean of R_{i,j} over the probes learnt by then."""
    means = []
    for row, led in enumerate((descent or line(scores.shape[-2])).led_to[1:], start=1):
        known = [j for j, own in enumerate(learnt) if own in led]
        if known:
            means.append(scores[..., row, known].mean(-1))
    return _mean(means)


def retention(
    scores: "Scores", learnt: Sequence[int], higher_is_better: Sequence[bool]
) -> "Scores | None":
    """Mean of R_{T,j} / R_{j,j} over probes learnt before the last stage, of scores not turned round.

    The ratio is turned over for losses, so that below 1 is loss for both.

    Returns: None where a divisor is nearer to 0 than 0.01; then absolute differences have to do.
    Raises:
        ProbeError: every probe is learnt in the last stage.
    """
    ratios = []
    for j in _earlier(scores, learnt, "retention"):
        last, own = scores[..., -1, j], scores[..., learnt[j], j]
        above, below = (last, own) if higher_is_better[j] else (own, last)
        if abs(below).min() < SMALLEST:
            return None
        ratios.append(above / below)
    return _mean(ratios)


def tax(scores: "Scores", descent: Descent | None = None) -> "Scores":
    """Mean fall of the probes in each stage from where it started, mean_j (R_{i-1,j} - R_{i,j}).

    Returns: [..., rows - 1]; along a line they add up to the fall from the base to the last row.
    """
    before = (descent or line(scores.shape[-2])).before[1:]
    found: Scores = (scores[..., before, :] - scores[..., 1:, :]).mean(-1)
    return found


def relative_drift(scores: "Scores", higher_is_better: Sequence[bool]) -> "Scores":
    """100 (R_T - R_0) / |R_0| per probe [..., probes], of scores not turned round; above 0 is better.

    NaN where the base is nearer to 0 than 0.01.

    Source: CapTrack, arXiv:2603.06610, which has no direction and divides by any base.
    """
    import numpy as np

    base, last = scores[..., 0, :], scores[..., -1, :]
    whole = np.where(abs(base) < SMALLEST, np.nan, abs(base))
    found: Scores = 100 * (last - base) / whole * np.where(higher_is_better, 1.0, -1.0)
    return found


def _earlier(scores: "Scores", learnt: Sequence[int], what: str) -> list[int]:
    columns = [j for j, row in enumerate(learnt) if row < scores.shape[-2] - 1]
    if not columns:
        raise ProbeError(f"{what} needs a probe that a stage before the last one teaches")
    return columns


def _mean(parts: Any) -> "Scores":
    found = list(parts)
    total: Scores = sum(found) / len(found)
    return total
