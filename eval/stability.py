"""The stability gap: how deep a skill falls while a stage trains, and whether it comes back.

A series is [..., evaluations] of one probe, higher is better, the first before the stage's first step.

Source: methods card A35; De Lange, van de Ven and Tuytelaars 2023, arXiv:2205.13452.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpt.errors import ProbeError
from eval.continual import grouped, unit_of
from eval.matrix import Matrix
from eval.metrics import upwards
from eval.resample import Estimate, Resamples, estimate, of_largest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Series = NDArray[Any]


@dataclass(frozen=True)
class Gap:
    """The gap of one probe within a stage, in the probe's unit, losses negated.

    Args:
        lowest: the lowest score after the start, and at which step.
        windowed: the largest fall within `window` evaluations.
        recovery: the last score minus the lowest.
        recovered_at: first step after the lowest at which the score is back within the tolerance of
            its start; None where it never is, `lowest_at` where it never left.
    """

    probe: str
    start: float
    lowest: Estimate
    lowest_at: int
    windowed: Estimate
    recovery: Estimate
    recovered_at: int | None

    @property
    def time_to_recover(self) -> int | None:
        """Steps from the lowest score until it is recovered."""
        return None if self.recovered_at is None else self.recovered_at - self.lowest_at


@dataclass(frozen=True)
class Lowest:
    """min-ACC and WC-ACC of a stage over the probes of one unit, losses negated.

    Args:
        unit: `share` of 1, or the metric's name.
        old: probes that the stage does not teach.
        own: probes that name the stage as their owner; together they are the task just learnt.
        min_accuracy: mean over `old` of the lowest score after the start.
        worst_case: None where no probe is `own`.
    """

    unit: str
    old: tuple[str, ...]
    own: tuple[str, ...]
    min_accuracy: Estimate
    worst_case: Estimate | None


def minimum(series: "Series") -> "Series":
    """Lowest score after the start."""
    lowest: Series = series[..., 1:].min(-1)
    return lowest


def min_accuracy(series: "Series") -> "Series":
    """min-ACC = mean over probes of the lowest score, for [..., evaluations, probes]."""
    mean: Series = series[..., 1:, :].min(-2).mean(-1)
    return mean


def worst_case_accuracy(current: Any, min_acc: Any, num_tasks: int) -> Any:
    """WC-ACC = acc_k / k + (1 - 1 / k) min-ACC: the task just learnt, and the others at their lowest."""
    return current / num_tasks + (1 - 1 / num_tasks) * min_acc


def windowed_forgetting(series: "Series", window: int) -> "Series":
    """WF: the largest fall between two evaluations that are at most `window` apart; 0 at least."""
    import numpy as np

    largest: Series = np.zeros(series.shape[:-1])
    for apart in range(1, min(window, series.shape[-1] - 1) + 1):
        falls = series[..., :-apart] - series[..., apart:]
        largest = np.maximum(largest, falls.max(-1))
    return largest


def recovery(series: "Series") -> "Series":
    """The last score minus the lowest after the start."""
    found: Series = series[..., -1] - minimum(series)
    return found


def recovered_at(series: Sequence[float], steps: Sequence[int], tolerance: float) -> int | None:
    """The first step, from the lowest score on, at which it is within `tolerance` of the start."""
    lowest = min(range(1, len(series)), key=lambda index: series[index])
    for index in range(lowest, len(series)):
        if series[index] >= series[0] - tolerance - 1e-12:
            return steps[index]
    return None


def gaps(
    matrix: Matrix,
    steps: Sequence[int],
    *,
    window: int = 1,
    tolerance: float = 0.0,
    resamples: Resamples | None = None,
) -> tuple[Gap, ...]:
    """The gap of every probe, of a matrix whose rows are evaluations within one stage.

    Probes of which neither direction is better have none.

    Args:
        steps: the optimizer step of each row; the first row is of the model before the stage.
        window: of the windowed forgetting, in evaluations.
        tolerance: how near to its start a probe is recovered, where it has no margin of its own.
        resamples: of this very matrix, where others read them too; drawn here unless given.

    Raises:
        ProbeError: fewer than two rows, or not a step for each.
    """
    if len(matrix.rows) < 2 or len(steps) != len(matrix.rows):
        raise ProbeError(
            f"a stability gap needs two evaluations or more and a step for each; there are "
            f"{len(matrix.rows)} evaluations and {len(steps)} steps"
        )
    base = matrix.rows[0].scores
    probes = [probe for probe in matrix.probes if not base[probe].is_drift]
    if not probes:
        return ()
    higher = [base[probe].higher_is_better for probe in probes]
    scores = upwards((resamples or Resamples(matrix)).scores(probes), higher)
    found = []
    for index, probe in enumerate(probes):
        series, margin = scores[..., index], base[probe].margin
        told = [float(value) for value in series[0]]
        found.append(
            Gap(
                probe=probe,
                start=told[0],
                lowest=_lowest(series),
                lowest_at=steps[1 + int(series[0, 1:].argmin())],
                windowed=of_largest(
                    windowed_forgetting(series, window), _largest_fall(series, window), least=0.0
                ),
                recovery=_recovery(series),
                recovered_at=recovered_at(told, steps, tolerance if margin is None else margin),
            )
        )
    return tuple(found)


def lowest(matrix: Matrix, stage: str, resamples: Resamples | None = None) -> tuple[Lowest, ...]:
    """min-ACC and WC-ACC of the looks at one stage, by unit; none of a unit that the stage teaches alone.

    Of this stage alone: what a probe lost in an earlier one is in its start.

    Args:
        matrix: a row for each look; the first is of the model before the stage's first step.
        stage: by which probes name their owner.
        resamples: of this very matrix, where others read them too; drawn here unless given.

    Raises:
        ProbeError: a row lacks a probe, or was measured differently.
    """
    resamples = resamples or Resamples(matrix)
    base, found = matrix.rows[0].scores, []
    for unit, probes in grouped(matrix, unit_of).items():
        own = [probe for probe in probes if base[probe].owner == stage]
        old = [probe for probe in probes if probe not in own]
        if not old:
            continue
        higher = [base[probe].higher_is_better for probe in (*old, *own)]
        scores = upwards(resamples.scores([*old, *own]), higher)
        low, last = min_accuracy(scores[..., : len(old)]), scores[:, -1, len(old) :]
        worst = worst_case_accuracy(last.mean(-1), low, len(old) + 1) if own else None
        found.append(
            Lowest(
                unit=unit,
                old=tuple(old),
                own=tuple(own),
                min_accuracy=estimate(low),
                worst_case=None if worst is None else estimate(worst),
            )
        )
    return tuple(found)


def _lowest(series: "Series") -> Estimate:
    """Of the lowest score, which is the largest of the scores turned round."""
    found = of_largest(-minimum(series), -series[:, 1 + int(series[0, 1:].argmin())])
    return Estimate(-found.value, -found.high, -found.low)


def _recovery(series: "Series") -> Estimate:
    """Of the recovery, the largest rise of the last score over those before it; 0 of a single one."""
    before = range(1, max(2, series.shape[1] - 1))
    lowest = min(before, key=lambda index: float(series[0, index]))
    return of_largest(recovery(series), series[:, -1] - series[:, lowest], least=0.0)


def _largest_fall(series: "Series", window: int) -> "Series":
    """The fall between those two evaluations which are farthest apart in the first series."""
    last = series.shape[1] - 1
    pairs = [(i, j) for i in range(last) for j in range(i + 1, min(i + window, last) + 1)]
    start, end = max(pairs, key=lambda pair: float(series[0, pair[0]] - series[0, pair[1]]))
    fall: Series = series[:, start] - series[:, end]
    return fall
