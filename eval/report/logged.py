"""What hooks logged while a stage trained, in three numbers for each term."""

from dataclasses import dataclass
from math import fsum

from eval.report.story import Stage
from eval.report.text import compact

HEADS = ("term", "first", "last", "mean", "values")


@dataclass(frozen=True)
class Term:
    """One term of a hook over the steps at which it was logged."""

    name: str
    first: float
    last: float
    mean: float
    num_values: int


def terms(stage: Stage) -> list[Term]:
    """Every series that a hook logged, without a value that was not finite."""
    return [
        Term(
            one.name.removeprefix("hook/"),
            one.values[0],
            one.values[-1],
            fsum(one.values) / len(one.values),
            len(one.values),
        )
        for one in stage.series
        if one.name.startswith("hook/") and one.values
    ]


def rows(stage: Stage) -> list[list[str]]:
    """A line for each term, under `HEADS`."""
    return [
        [one.name, *map(compact, (one.first, one.last, one.mean)), str(one.num_values)]
        for one in terms(stage)
    ]
