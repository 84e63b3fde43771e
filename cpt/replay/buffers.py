"""Buffers of old rows: a reservoir over a stream, and equal parts of known stages.

They are filled anew wherever they are needed, from a seed: nothing of them has to be saved.
"""

import random
from collections.abc import Sequence
from typing import Generic, TypeVar

from cpt.errors import HookError

T = TypeVar("T")


class Reservoir(Generic[T]):
    """A uniform sample of a stream whose length nobody knows.

    Item t, counted from 1, is stored if t <= size; else with probability size / t it takes the place of a
    stored item drawn uniformly, so after t items each of them is stored with probability size / t.

    Source: Vitter 1985, doi:10.1145/3147.3165, Algorithm R; `methods.md` A36.
    """

    def __init__(self, size: int, seed: int | str) -> None:
        """Make an empty one with a generator of its own.

        Raises:
            ValueError: no room for a single item.
        """
        if size < 1:
            raise ValueError(f"a reservoir of {size} rows keeps nothing; size is at least 1")
        self.size = size
        self.num_seen = 0
        self.items: list[T] = []
        self._random = random.Random(seed)

    def add(self, item: T) -> None:
        """Offer the stream's next item."""
        self.num_seen += 1
        if len(self.items) < self.size:
            self.items.append(item)
            return
        place = self._random.randrange(self.num_seen)
        if place < self.size:
            self.items[place] = item


def quotas(size: int, num_stages: int) -> list[int]:
    """Slots of each of k stages: floor(size / k) or one more, which the oldest get.

    Raises:
        HookError: a stage would have none.
    """
    if size < num_stages:
        raise HookError(
            f"a buffer of {size} rows has none for some of {num_stages} stages; make it larger, or name "
            f"fewer stages"
        )
    each, rest = divmod(size, num_stages)
    return [each + (number < rest) for number in range(num_stages)]


class QuotaBuffer(Generic[T]):
    """Equal parts for stages that come one after the other, shared out anew with each.

    A stage whose part shrinks keeps a uniform random subset of what it has, so what is left of each stage is
    at any time a uniform sample of it. A stage that is added again replaces its own rows and no others.

    Source: `methods.md` A36, D06; what a bounded queue does instead is its F20.
    """

    def __init__(self, size: int, seed: int | str) -> None:
        self.size = size
        self.stages: dict[str, list[T]] = {}
        self._random = random.Random(seed)

    def add(self, stage: str, items: Sequence[T]) -> None:
        """Add a stage's rows.

        Raises:
            HookError: the buffer is smaller than the number of stages.
        """
        names = [*dict.fromkeys([*self.stages, stage])]
        parts = dict(zip(names, quotas(self.size, len(names)), strict=True))
        self.stages[stage] = list(items)
        for name in names:
            kept = self.stages[name]
            if len(kept) > parts[name]:
                places = sorted(self._random.sample(range(len(kept)), parts[name]))
                self.stages[name] = [kept[place] for place in places]


def reservoir_parts(size: int, seen: Sequence[int], seed: int) -> list[int]:
    """How many rows of each stage a reservoir of `size` over all their rows would hold.

    What Algorithm R keeps is a uniform sample without replacement, whose counts have the multivariate
    hypergeometric distribution; drawing them needs no pass over the rows.

    Args:
        seen: rows that each stage trained on.
    """
    import numpy as np

    if size >= sum(seen):
        return list(seen)
    generator = np.random.default_rng(seed)
    return [
        int(n) for n in generator.multivariate_hypergeometric(list(seen), size, method="marginals")
    ]
