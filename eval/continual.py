"""What a chain did to its model: the metrics of continual learning of a probe matrix, with intervals.

A probe may have an owner, the stage that teaches what it asks. Transfer and forgetting are of owned
probes; the tax is of probes without an owner whose group is not `domain`: what nobody taught. Numbers
of different units, such as shares of right answers and bits per byte, are never averaged. Probes for
which neither higher nor lower is better are left out (`eval.compare.shifts`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cpt.errors import ProbeError
from eval import metrics
from eval.matrix import Matrix, Score
from eval.resample import Estimate, Resamples, estimate, over_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = "share"


@dataclass(frozen=True)
class Hop:
    """What one stage cost the probes that it does not teach; above 0 is loss."""

    before: str
    after: str
    tax: Estimate


@dataclass(frozen=True)
class Continual:
    """Metrics over the probes of one unit, higher is better; losses count negated.

    Args:
        unit: `share` of 1, or the metric's name.
        overall: OP, the mean of all probes on the last checkpoint.
        worst: the largest drop of a probe from its best row to the last one, and whose that is.
        hops, total_tax: of the probes that no stage teaches; empty and None without any.
        average: AA; like all below None where `absent` says why.
    """

    unit: str
    probes: tuple[str, ...]
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


def continual(matrix: Matrix, resamples: Resamples | None = None) -> tuple[Continual, ...]:
    """Metrics of a matrix whose first row is the base, for each unit in the order of the probes.

    Args:
        resamples: of this very matrix, where others read them too; drawn here unless given.

    Raises:
        ProbeError: fewer than two rows, or a row lacks a probe or was measured differently.
    """
    check_rows(matrix)
    resamples = resamples or Resamples(matrix)
    found = []
    for unit, probes in grouped(matrix, unit_of).items():
        found.append(_continual(matrix, unit, probes, resamples.scores(probes)))
    return tuple(found)


def across_seeds(chains: Sequence[Continual]) -> Continual:
    """The same metrics of chains that differ in their seed: means, with Student's interval over seeds.

    `worst_probe` is the one that is worst most often.

    Raises:
        ProbeError: fewer than two chains, or chains of other probes, stages or owners.
    """
    first = chains[0]
    for other in chains[1:]:
        if (other.unit, other.probes, other.owned, len(other.hops), other.absent.keys()) != (
            first.unit, first.probes, first.owned, len(first.hops), first.absent.keys()
        ):  # fmt: skip
            raise ProbeError(
                f"metrics over seeds need chains of the same stages and probes; one has "
                f"{', '.join(first.probes)}, another {', '.join(other.probes)}"
            )
    means: dict[str, Any] = {
        name: over_seeds([getattr(chain, name).value for chain in chains])
        for name in (field.name for field in fields(Continual))
        if isinstance(getattr(first, name), Estimate)
    }
    hops = tuple(
        replace(hop, tax=over_seeds([chain.hops[index].tax.value for chain in chains]))
        for index, hop in enumerate(first.hops)
    )
    worst = [chain.worst_probe for chain in chains]
    return replace(first, **means, hops=hops, worst_probe=max(worst, key=worst.count))


def unit_of(score: Score) -> str:
    """`share` where the values are shares of 1, as accuracies are; else the metric's name."""
    name = score.metric.partition(",")[0]
    if name == "bits_per_byte" or not all(0 <= item.value <= 1 for item in score.items):
        return name
    return SHARE


def _continual(
    matrix: Matrix, unit: str, probes: Sequence[str], scores: "NDArray[Any]"
) -> Continual:
    higher = [score_of(matrix, probe).higher_is_better for probe in probes]
    up = metrics.upwards(scores, higher)
    stages = [row.stage for row in matrix.rows]
    owners = [score_of(matrix, probe).owner for probe in probes]
    owned = [j for j, owner in enumerate(owners) if owner in stages[1:]]
    learnt = [stages.index(str(owners[j])) for j in owned]
    untaught = [
        j
        for j, p in enumerate(probes)
        if owners[j] is None and score_of(matrix, p).group != "domain"
    ]
    drops = metrics.drops(up)
    hops = metrics.tax(up[..., untaught]) if untaught else None
    absent: dict[str, str] = {}

    def of_owned(name: str, make: Callable[[], "NDArray[Any] | None"]) -> Estimate | None:
        try:
            if not owned:
                raise ProbeError("no probe of the suite names the stage that teaches it (`owner`)")
            values = make()
            if values is None:
                raise ProbeError("a score is too near to 0 to divide by")
        except ProbeError as error:
            absent[name] = str(error)
            return None
        return estimate(values)

    mine = up[..., owned]
    return Continual(
        unit=unit,
        probes=tuple(probes),
        owned=tuple(probes[j] for j in owned),
        overall=estimate(metrics.average(up)),
        worst=estimate(drops.max(-1)),
        worst_probe=probes[int(drops[0].argmax())],
        hops=() if hops is None else _hops(stages, hops),
        total_tax=None if hops is None else estimate(hops.sum(-1)),
        average=of_owned("average", lambda: metrics.average(mine)),
        incremental_average=of_owned(
            "incremental_average", lambda: metrics.incremental_average(mine, learnt)
        ),
        backward_transfer=of_owned(
            "backward_transfer", lambda: metrics.backward_transfer(mine, learnt)
        ),
        forward_transfer=of_owned(
            "forward_transfer", lambda: metrics.forward_transfer(mine, learnt)
        ),
        forgetting=of_owned("forgetting", lambda: metrics.forgetting(mine, learnt)),
        retention=of_owned(
            "retention",
            lambda: metrics.retention(scores[..., owned], learnt, [higher[j] for j in owned]),
        ),
        absent=absent,
    )


def _hops(stages: Sequence[str], taxes: "NDArray[Any]") -> tuple[Hop, ...]:
    return tuple(Hop(a, b, estimate(taxes[:, i])) for i, (a, b) in enumerate(pairwise(stages)))


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
