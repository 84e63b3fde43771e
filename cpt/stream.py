"""The order in which a stage sees its rows: exact shares, whole cycles, the same on any topology.

A stream is made once, from lengths and shares alone, before anything is sharded. Every prefix of it holds
each source's share up to one row, so a run that stops early has trained on the shares it names. Where a share
changes over the stage, that holds for what it was on average until then.
"""

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cpt.errors import DataError
from cpt.replay.fluid import Fluid
from cpt.replay.schedule import Schedule


@dataclass(frozen=True)
class Source:
    """One source of rows.

    Attributes:
        amounts: per row, its tokens, or 1 when shares count rows.
        share: of the final stream; all sources sum to 1.
        fresh: new data, which is never truncated; replayed data are not fresh.
        key: what its order is drawn from, with the seed; its name where that is empty.
        schedule: of a replayed source, its share over the stage, in place of `share`; new sources divide what
            is left in the ratio of their shares.
    """

    name: str
    amounts: Sequence[float]
    share: float
    fresh: bool = True
    key: str = ""
    schedule: Schedule | None = None

    @property
    def highest_share(self) -> float:
        """At any time of the stage."""
        return self.share if self.schedule is None else self.schedule.highest


@dataclass(frozen=True)
class Stream:
    """Rows in the order of training, and what each source gave.

    Attributes:
        sources, rows: of each place in the stream, the source and which of its rows.
        shares, epochs: of each source.
    """

    sources: "array[int]"
    rows: "array[int]"
    shares: tuple[float, ...]
    epochs: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def order(self) -> Iterator[tuple[int, int]]:
        """(source, row) pairs."""
        return zip(self.sources, self.rows, strict=True)


class Mixer:
    """A stream under way: sources mixed so that no prefix strays from the shares by more than one row.

    The next row comes from the source that is due first: of those that it would not put ahead of its
    share by a row, the one whose row would bring it to its share the earliest (earliest deadline first,
    the fluid schedule's windows; a largest-deficit rule strays by more than a row with many sources).

    Each source is drawn without replacement per cycle, in an order that only its own key decides, so a
    source of share 0 or none at all leaves the order of the others as it was.

    Where a share changes, rows are due when the schedule's integral reaches them; see `cpt.replay.fluid`.
    Where every batch must hold so many rows of each source, `pattern` says which one each place takes.

    Args:
        sources: what to mix.
        seed: of the shuffles.
        length: how long the whole stage will be, in the unit of the shares; needed by schedules alone.
        pattern: of each place of a batch its source, or -1 where new sources are mixed by their shares.

    Raises:
        DataError: an empty source with a share, or shares that leave nothing for new data.

    Source: Baruah et al. 1996, doi:10.1007/BF01940883 (windows of proportionate progress), for rows of
    one size; with rows of many sizes the bound is one row of the largest.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int,
        length: float | None = None,
        pattern: Sequence[int] = (),
    ) -> None:
        for source in sources:
            if source.highest_share > 0 and not source.amounts:
                raise DataError(
                    f"{source.name} is to be {source.highest_share:.0%} of the stream and is empty"
                )
        active = [index for index, source in enumerate(sources) if source.highest_share > 0]
        if not any(sources[index].fresh for index in active):
            raise DataError(
                "replay shares leave nothing for new data; they must sum to less than 1"
            )
        self._given_sources = sources
        self._cycles = {index: _Cycle(sources[index], seed) for index in active}
        self._given = dict.fromkeys(active, 0.0)
        self.total = 0.0
        self.sources, self.rows = array("i"), array("q")
        self._pattern = pattern
        self._fresh = [index for index in active if sources[index].fresh]
        self._fluid: Fluid | None = None
        if any(source.schedule is not None for source in sources):
            assert length is not None, "a schedule needs the stage's length"
            self._fluid = Fluid(
                [(source.share, source.fresh, source.schedule) for source in sources], length
            )

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self) -> tuple[int, int]:
        """The next (source, row), which the stream holds from now on."""
        index = self._due() if len(self._cycles) > 1 else next(iter(self._cycles))
        row = self._cycles[index].next()
        amount = self._given_sources[index].amounts[row]
        self.sources.append(index)
        self.rows.append(row)
        self._given[index] += amount
        self.total += amount
        return index, row

    def _due(self) -> int:
        among, total, whole = list(self._cycles), self.total, 1.0
        if self._pattern:
            index = self._pattern[len(self) % len(self._pattern)]
            if index >= 0:
                return index
            among, total = self._fresh, sum(self._given[index] for index in self._fresh)
            whole = sum(self._given_sources[index].share for index in self._fresh)
        chosen, best = -1, (True, math.inf)
        for index in among:  # of two alike, the first
            share, given = self._given_sources[index].share / whole, self._given[index]
            cycle = self._cycles[index]
            amount = cycle.amounts[cycle.coming]
            if self._fluid is not None:
                due = self._fluid.due(index, given, amount, total)
            else:
                due = given >= share * (total + amount), (given + amount) / share
            if chosen < 0 or due < best:
                chosen, best = index, due
        return chosen

    def has_seen(self, epochs: float) -> bool:
        """Whether every fresh source has been seen so many times."""
        return all(
            cycle.epochs >= epochs - 1e-9
            for index, cycle in self._cycles.items()
            if self._given_sources[index].fresh
        )

    def first(self, number: int) -> Stream:
        """The stream's first `number` rows, with the shares and epochs that these have."""
        sources, rows = self.sources[:number], self.rows[:number]
        given, drawn = [0.0] * len(self._given_sources), [0] * len(self._given_sources)
        for index, row in zip(sources, rows, strict=True):
            given[index] += self._given_sources[index].amounts[row]
            drawn[index] += 1
        total = sum(given)
        return Stream(
            sources,
            rows,
            tuple(part / total if total else 0.0 for part in given),
            tuple(
                part / len(source.amounts) if part else 0.0
                for part, source in zip(drawn, self._given_sources, strict=True)
            ),
        )


def interleave(
    sources: Sequence[Source],
    seed: int,
    *,
    epochs: float | None = None,
    rows: int | None = None,
    amount: float | None = None,
    multiple_of: int = 1,
    length: float | None = None,
    pattern: Sequence[int] = (),
) -> Stream:
    """Mix sources as `Mixer` does, up to an end.

    Args:
        sources: what to mix.
        seed: of the shuffles.
        epochs: stop once every fresh source has been seen this many times ...
        rows: ... or after this many rows ...
        amount: ... or once the rows' amounts reach this.
        multiple_of: end only after a multiple of this many rows (a whole global batch).
        length, pattern: as `Mixer` takes them.
    """
    mixer = Mixer(sources, seed, length, pattern)

    def finished() -> bool:
        if rows is not None:
            return len(mixer) >= rows
        if len(mixer) % multiple_of:
            return False
        return mixer.total >= amount if amount is not None else mixer.has_seen(epochs or 1.0)

    while not finished():
        mixer.draw()
    return mixer.first(len(mixer))


class _Cycle:
    """Row numbers without replacement, reshuffled every time round."""

    def __init__(self, source: Source, seed: int) -> None:
        self.amounts = source.amounts
        self._random = random.Random(f"{seed}/{source.key or source.name}")
        self._left = array("q")
        self._drawn = 0

    @property
    def coming(self) -> int:
        """The row that `next` will give."""
        if not self._left:
            self._left = array("q", range(len(self.amounts)))
            self._random.shuffle(self._left)
        return self._left[-1]

    def next(self) -> int:
        row = self.coming
        self._left.pop()
        self._drawn += 1
        return row

    @property
    def epochs(self) -> float:
        return self._drawn / len(self.amounts)
