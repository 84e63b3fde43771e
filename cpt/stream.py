"""The order in which a stage sees its rows: exact shares, whole cycles, the same on any topology.

A stream is made once, from lengths and shares alone, before anything is sharded. Every prefix of it holds
each source's share up to one row, so a run that stops early has trained on the shares it names.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cpt.errors import DataError


@dataclass(frozen=True)
class Source:
    """One source of rows.

    Attributes:
        amounts: per row, its tokens, or 1 when shares count rows.
        share: of the final stream; all sources sum to 1.
        fresh: new data, which is never truncated; replayed data are not fresh.
        key: what its order is drawn from, with the seed; its name where that is empty.
    """

    name: str
    amounts: Sequence[float]
    share: float
    fresh: bool = True
    key: str = ""


@dataclass(frozen=True)
class Stream:
    """(source, row) pairs in the order of training, and what each source gave."""

    order: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]
    epochs: tuple[float, ...]


def interleave(
    sources: Sequence[Source],
    seed: int,
    *,
    epochs: float | None = None,
    rows: int | None = None,
    amount: float | None = None,
    multiple_of: int = 1,
) -> Stream:
    """Mix sources so that no prefix strays from the shares by more than one row.

    The next row comes from the source that is due first: of those that it would not put ahead of its
    share by a row, the one whose row would bring it to its share the earliest (earliest deadline first,
    the fluid schedule's windows; a largest-deficit rule strays by more than a row with many sources).

    Each source is drawn without replacement per cycle, in an order that only its own key decides, so a
    source of share 0 or none at all leaves the order of the others as it was.

    Args:
        sources: what to mix.
        seed: of the shuffles.
        epochs: stop once every fresh source has been seen this many times ...
        rows: ... or after this many rows ...
        amount: ... or once the rows' amounts reach this.
        multiple_of: end only after a multiple of this many rows (a whole global batch).

    Raises:
        DataError: an empty source with a share, or shares that leave nothing for new data.

    Source: Baruah et al. 1996, doi:10.1007/BF01940883 (windows of proportionate progress), for rows of
    one size; with rows of many sizes the bound is one row of the largest.
    """
    for source in sources:
        if source.share > 0 and not source.amounts:
            raise DataError(f"{source.name} is to be {source.share:.0%} of the stream and is empty")
    active = [index for index, source in enumerate(sources) if source.share > 0]
    if not any(sources[index].fresh for index in active):
        raise DataError("replay shares leave nothing for new data; they must sum to less than 1")
    cycles = {index: _Cycle(sources[index], seed) for index in active}
    given = dict.fromkeys(active, 0.0)
    total = 0.0
    order: list[tuple[int, int]] = []

    def finished() -> bool:
        if rows is not None:
            return len(order) >= rows
        if len(order) % multiple_of:
            return False
        if amount is not None:
            return total >= amount
        needed = epochs or 1.0
        return all(cycles[i].epochs >= needed - 1e-9 for i in active if sources[i].fresh)

    def due(index: int) -> tuple[bool, float, int]:
        share, amount = sources[index].share, sources[index].amounts[cycles[index].coming]
        is_ahead = given[index] >= share * (total + amount)
        return is_ahead, (given[index] + amount) / share, index

    while not finished():
        index = min(active, key=due)
        row = cycles[index].next()
        order.append((index, row))
        given[index] += sources[index].amounts[row]
        total += sources[index].amounts[row]
    return Stream(
        tuple(order),
        tuple(given.get(index, 0.0) / total if total else 0.0 for index in range(len(sources))),
        tuple(cycles[index].epochs if index in cycles else 0.0 for index in range(len(sources))),
    )


class _Cycle:
    """Row numbers without replacement, reshuffled every time round."""

    def __init__(self, source: Source, seed: int) -> None:
        self._random = random.Random(f"{seed}/{source.key or source.name}")
        self._size = len(source.amounts)
        self._left: list[int] = []
        self._drawn = 0

    @property
    def coming(self) -> int:
        """The row that `next` will give."""
        if not self._left:
            self._left = list(range(self._size))
            self._random.shuffle(self._left)
        return self._left[-1]

    def next(self) -> int:
        row = self.coming
        self._left.pop()
        self._drawn += 1
        return row

    @property
    def epochs(self) -> float:
        return self._drawn / self._size


def pack(lengths: Sequence[int], size: int, split: bool) -> list[list[tuple[int, int, int]]]:
    """Fill rows of `size` tokens with sequences, in order.

    Args:
        lengths: tokens of each sequence, in stream order.
        size: tokens of a packed row.
        split: cut a sequence at the end of a row and continue it in the next (language modelling); otherwise
            a sequence that does not fit opens the next row, and one longer than a row is cut to it.

    Returns: rows of (sequence, start, end) pieces.
    """
    packed: list[list[tuple[int, int, int]]] = [[]]
    room = size
    for number, length in enumerate(lengths):
        start = 0
        end = length if split else min(length, size)
        while start < end:
            if room == 0 or (not split and end - start > room):
                packed.append([])
                room = size
            taken = min(end - start, room)
            packed[-1].append((number, start, start + taken))
            start += taken
            room -= taken
    return [row for row in packed if row]
