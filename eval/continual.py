"""What a chain did to its model: the metrics of continual learning of a probe matrix, with intervals.

A probe may have an owner, the stage that teaches what it asks. Transfer and forgetting are of owned
probes; the tax is of probes without an owner whose group is not `domain`: what nobody taught. A chain is
a graph: a hop is a stage against the one it started from, and all else is of the rows that led to the
last one (`Continual.rows`), since the last checkpoint never was what a sibling is. Numbers of different
units, such as shares of right answers and bits per byte, are never averaged. Probes for
which neither higher nor lower is better are left out (`eval.compare.shifts`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpt.errors import ProbeError
from eval import metrics
from eval.descent import Descent, descent, line
from eval.matrix import Matrix, Score
from eval.resample import Estimate, Resamples, estimate, of_largest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = "share"
Told = Callable[["NDArray[Any]"], "Estimate"]


@dataclass(frozen=True)
class Hop:
    """What one stage cost the probes that no stage teaches; above 0 is loss.

    `before` is the row that the stage started from, of a merge the first.
    """

    before: str
    after: str
    tax: Estimate


@dataclass(frozen=True)
class Continual:
    """Metrics over the probes of one unit, higher is better; losses count negated.

    Args:
        unit: `share` of 1, or the metric's name.
        rows: the stages that led to the last one, from the base on: all but `hops` is of these.
        owned: the probes which one of them teaches.
        overall: OP, the mean of all probes on the last checkpoint.
        worst: the largest drop of a probe from its best row to the last one, and whose that is.
        hops, total_tax: of the probes that no stage teaches; empty and None without any.
        average: AA; like all below None where `absent` says why.
    """

    unit: str
    probes: tuple[str, ...]
    rows: tuple[str, ...]
    owned: tuple[str, ...]
    overall: Estimate
    worst: Estimate
    worst_probe: str
    hops: tuple[Hop, ...]
    total_tax: Estimate | None
    average: Estimate | None
    incremental_average: Estimate | None
    backward_transfer: Estimate | None
    forward_transfer: Estimate | None
    forgetting: Estimate | None
    retention: Estimate | None
    absent: dict[str, str]


def continual(
    matrix: Matrix,
    resamples: Resamples | None = None,
    parents: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Continual, ...]:
    """Metrics of a matrix whose first row is the base, for each unit in the order of the probes.

    Args:
        resamples: of this very matrix, where others read them too; drawn here unless given.
        parents: of each stage, also of those without a row; without it each came of the one before.

    Raises:
        ProbeError: fewer than two rows, or a row lacks a probe or was measured differently.
    """
    check_rows(matrix)
    stages = [row.stage for row in matrix.rows]
    came = line(len(stages)) if parents is None else descent(stages, parents)
    resamples = resamples or Resamples(matrix)
    found = []
    for unit, probes in grouped(matrix, unit_of).items():
        found.append(_continual(matrix, unit, probes, resamples.scores(probes), came))
    return tuple(found)


def unit_of(score: Score) -> str:
    """`share` where the values are shares of 1, as accuracies are; else the metric's name."""
    name = score.metric.partition(",")[0]
    if name == "bits_per_byte" or not all(0 <= item.value <= 1 for item in score.items):
        return name
    return SHARE


def _continual(
    matrix: Matrix, unit: str, probes: Sequence[str], scores: "NDArray[Any]", came: Descent
) -> Continual:
    higher = [score_of(matrix, probe).higher_is_better for probe in probes]
    up = metrics.upwards(scores, higher)
    stages = [row.stage for row in matrix.rows]
    owners = [score_of(matrix, probe).owner for probe in probes]
    untaught = [
        j
        for j, p in enumerate(probes)
        if owners[j] is None and score_of(matrix, p).group != "domain"
    ]
    hops, before = metrics.tax(up[..., untaught], came) if untaught else None, came.before
    total = up[:, 0, untaught] - up[:, -1, untaught]
    path, up, scores = came.last, up[:, came.last], scores[:, came.last]
    rows, came = tuple(stages[row] for row in path), came.along(path)
    owned = [j for j, owner in enumerate(owners) if owner in rows[1:]]
    learnt = [rows.index(str(owners[j])) for j in owned]
    drops, worst = metrics.drops(up), metrics.falls(up)
    absent: dict[str, str] = {}

    def of_owned(
        name: str, make: Callable[[], "NDArray[Any] | None"], told: Told = estimate
    ) -> Estimate | None:
        try:
            if not owned:
                raise ProbeError(_why_not_owned(owners, stages))
            values = make()
            if values is None:
                raise ProbeError("a score is too near to 0 to divide by")
        except ProbeError as error:
            absent[name] = str(error)
            return None
        return told(values)

    mine = up[..., owned]
    return Continual(
        unit=unit,
        probes=tuple(probes),
        rows=rows,
        owned=tuple(probes[j] for j in owned),
        overall=estimate(metrics.average(up)),
        worst=of_largest(drops.max(-1), worst[:, worst[0].argmax()], least=0.0),
        worst_probe=probes[int(drops[0].argmax())],
        hops=() if hops is None else _hops(stages, hops, before),
        total_tax=estimate(total.mean(-1)) if untaught else None,
        average=of_owned("average", lambda: metrics.average(mine)),
        incremental_average=of_owned(
            "incremental_average", lambda: metrics.incremental_average(mine, learnt, came)
        ),
        backward_transfer=of_owned(
            "backward_transfer", lambda: metrics.backward_transfer(mine, learnt)
        ),
        forward_transfer=of_owned(
            "forward_transfer", lambda: metrics.forward_transfer(mine, learnt, came)
        ),
        forgetting=of_owned(
            "forgetting",
            lambda: metrics.forgetting(mine, learnt, came),
            lambda values: of_largest(values, metrics.forgetting(mine, learnt, came, fixed=True)),
        ),
        retention=of_owned(
            "retention",
            lambda: metrics.retention(scores[..., owned], learnt, [higher[j] for j in owned]),
        ),
        absent=absent,
    )


def _why_not_owned(owners: Sequence[str | None], stages: Sequence[str]) -> str:
    """Why no probe has an owner among the rows that led to the last one."""
    named = list(dict.fromkeys(owner for owner in owners if owner is not None))
    if not named:
        return "no probe of the suite names the stage that teaches it (`owner`)"
    aside = [owner for owner in named if owner in stages]
    if not aside:
        return f"no row of {', '.join(named)}, which the suite names as `owner`"
    return f"the chain branches, and {', '.join(aside)} did not lead to {stages[-1]}"


def _hops(stages: Sequence[str], taxes: "NDArray[Any]", before: Sequence[int]) -> tuple[Hop, ...]:
    return tuple(
        Hop(stages[before[row]], stage, estimate(taxes[:, row - 1]))
        for row, stage in enumerate(stages)
        if row
    )


def check_rows(matrix: Matrix) -> None:
    """Refuse a matrix without a base row and another.

    Raises:
        ProbeError: see `continual`.
    """
    if len(matrix.rows) < 2:
        raise ProbeError(
            f"metrics of continual learning need the base model's row and another; the probe matrix "
            f"of {matrix.suite} has {len(matrix.rows)}"
        )


def score_of(matrix: Matrix, probe: str) -> Score:
    """The base model's score of a probe, which says what the probe is.

    Raises:
        ProbeError: there is none.
    """
    found = matrix.rows[0].scores.get(probe)
    if found is None:
        raise ProbeError(f"{matrix.rows[0].stage} has no score for {probe}")
    return found


def grouped(matrix: Matrix, key: Callable[[Score], str]) -> dict[str, list[str]]:
    """Probes by a key of their scores, in the order of the matrix.

    Without those for which neither higher nor lower is better: how far they moved is no gain or loss, and
    is told apart (`eval.compare.shifts`).
    """
    found: dict[str, list[str]] = {}
    for probe in matrix.probes:
        score = score_of(matrix, probe)
        if not score.is_drift:
            found.setdefault(key(score), []).append(probe)
    return found
