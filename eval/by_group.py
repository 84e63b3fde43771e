"""Change by group of probes, relative to the base model: CapTrack's drift, with direction and units.

Source: methods card P045; CapTrack, arXiv:2603.06610.
"""

from collections.abc import Callable
from dataclasses import dataclass

from eval import metrics
from eval.continual import check_rows, grouped, score_of, unit_of
from eval.matrix import Matrix, Score
from eval.resample import Estimate, Resamples, estimate


@dataclass(frozen=True)
class GroupChange:
    """Change of a group of probes from the base to the last checkpoint; above 0 is better.

    Args:
        relative: mean of the probes' changes in percent of the base; None where `near_zero` holds all.
        absolute: mean change by unit.
        near_zero: probes whose base score, or a resample of it, is too small to divide by.
    """

    group: str
    relative: Estimate | None
    absolute: dict[str, Estimate]
    near_zero: tuple[str, ...]


def by_group(
    matrix: Matrix,
    group_of: Callable[[Score], str] = lambda score: score.group,
    resamples: Resamples | None = None,
) -> tuple[GroupChange, ...]:
    """Relative change of each group, in the order of the probes.

    Args:
        group_of: another grouping, such as CAN, WILL and HOW.
        resamples: of this very matrix, where others read them too; drawn here unless given.

    Raises:
        ProbeError: see `continual`.
    """
    import numpy as np

    check_rows(matrix)
    resamples = resamples or Resamples(matrix)
    found = []
    for group, probes in grouped(matrix, group_of).items():
        scores = resamples.scores(probes)
        higher = [score_of(matrix, probe).higher_is_better for probe in probes]
        relative = metrics.relative_drift(scores, higher)
        usable = np.asarray(~np.isnan(relative).any(0))
        up = metrics.upwards(scores, higher)
        units = [unit_of(score_of(matrix, probe)) for probe in probes]
        absolute = {}
        for unit in dict.fromkeys(units):
            columns = [j for j, own in enumerate(units) if own == unit]
            absolute[unit] = estimate((up[:, -1, columns] - up[:, 0, columns]).mean(-1))
        found.append(
            GroupChange(
                group=group,
                relative=estimate(relative[:, usable].mean(-1)) if usable.any() else None,
                absolute=absolute,
                near_zero=tuple(p for j, p in enumerate(probes) if not usable[j]),
            )
        )
    return tuple(found)
