"""The columns of the matrix: what each probe measures and how its numbers are printed."""

from dataclasses import dataclass
from typing import Any

from eval.gate import in_points
from eval.matrix import Matrix, Score
from eval.report.text import decimal_places

GROUPS = ("domain", "knowledge", "reasoning", "language", "instruction", "code", "safety")


@dataclass(frozen=True)
class Probe:
    """A column of the matrix; a share of 1 is shown in percent (`scale` 100), the rest as it is."""

    name: str
    group: str
    metric: str
    higher_is_better: bool
    margin: float
    num_items: int
    scale: float
    places: int
    is_drift: bool = False


def columns(declared: dict[str, Any], matrix: Matrix, margin: float) -> tuple[Probe, ...]:
    """The probes a chain declares or has measured, by group, then in the order of the suite."""
    names = list(dict.fromkeys([*declared, *matrix.probes]))
    probes = [_probe(name, declared.get(name) or {}, matrix, margin) for name in names]
    groups = [*GROUPS, *dict.fromkeys(probe.group for probe in probes)]
    return tuple(sorted(probes, key=lambda probe: groups.index(probe.group)))


def _probe(name: str, declared: dict[str, Any], matrix: Matrix, margin: float) -> Probe:
    scores = [row.scores[name] for row in matrix.rows if name in row.scores]
    if not scores:
        return Probe(
            name=name,
            group=str(declared.get("group") or "other"),
            metric=str(declared.get("metric") or ""),
            higher_is_better=bool(declared.get("higher_is_better", True)),
            margin=margin if declared.get("margin") is None else float(declared["margin"]),
            num_items=0,
            scale=1.0,
            places=3,
            is_drift=declared.get("direction") == "none",
        )
    first = scores[0]
    share = all(in_points(score) for score in scores)
    return Probe(
        name=name,
        group=first.group,
        metric=first.metric.partition(",")[0],
        higher_is_better=first.higher_is_better,
        margin=_margin(first, margin),
        num_items=len(first.items),
        scale=100.0 if share else 1.0,
        places=1 if share else decimal_places(*(score.value for score in scores)),
        is_drift=first.is_drift,
    )


def _margin(score: Score, margin: float) -> float:
    if score.margin is not None:
        return score.margin
    return margin if score.is_judged else 0.0
