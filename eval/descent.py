"""Which rows of a matrix led to which: a chain is a graph, and its rows stand in the order of the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Descent:
    """Rows by number, 0 the base; rows that led to a row stand before it.

    Args:
        before: of each row the one that its stage started from, of a merge the first; 0 for the base.
        led_to: the rows that led to each row, itself included; those of a merge come from all its parents.
    """

    before: tuple[int, ...]
    led_to: tuple[frozenset[int], ...]

    @property
    def last(self) -> tuple[int, ...]:
        """The rows that led to the last one, it and the base included, in order."""
        return tuple(sorted(self.led_to[-1]))

    def along(self, rows: Sequence[int]) -> "Descent":
        """The same of some rows alone, with their new numbers; all that led to a row are among them."""
        number = {row: place for place, row in enumerate(rows)}
        return Descent(
            tuple(number[self.before[row]] for row in rows),
            tuple(frozenset(number[each] for each in self.led_to[row]) for row in rows),
        )


def line(num_rows: int) -> Descent:
    """Rows of which each started from the one before."""
    return Descent(
        tuple(max(0, row - 1) for row in range(num_rows)),
        tuple(frozenset(range(row + 1)) for row in range(num_rows)),
    )


def descent(stages: Sequence[str], parents: Mapping[str, Sequence[str]]) -> Descent:
    """Descent of the rows of these stages.

    Args:
        stages: of the rows, the base first, parents before children.
        parents: of each stage; those that have no row are passed through to their own. What has no
            parent that is known started from the base.
    """
    number = {stage: row for row, stage in enumerate(stages)}
    before, led_to = [0], [frozenset({0})]
    for row, stage in enumerate(stages[1:], start=1):
        found = _with_rows(stage, parents, number) or [0]
        before.append(found[0])
        led_to.append(frozenset({row}).union(*(led_to[each] for each in found)))
    return Descent(tuple(before), tuple(led_to))


def _with_rows(
    stage: str, parents: Mapping[str, Sequence[str]], number: Mapping[str, int]
) -> list[int]:
    """Rows of the nearest stages that led to a stage, in the order of its parents."""
    found: list[int] = []
    for parent in parents.get(stage, ()):
        if parent in number:
            found.append(number[parent])
        else:
            found += _with_rows(parent, parents, number)
    return found
