"""Token sequences that begin alike, packed into rows so that what they share is computed once.

All requests of a task are sorted; neighbours then share the longest beginnings that any two share: a context
with its choices, a question with its text, a prompt with its examples. A row of the batch holds the tree of
some neighbours, depth first. With a mask by which a token sees its ancestors alone, and with its depth as its
position, each token has the keys that it has in a row of its own, so its hidden state is the same.

Source: the tree mask as in SpecInfer (Miao et al. 2023, arXiv:2305.09781, section 4.2). Numpy only, no torch.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy

Tokens = tuple[int, ...]
Integers = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]

#: No row holds more sequences; it bounds the search for the best rows.
MOST = 512
#: What a forward pass costs beside its tokens, in tokens: its weights are read, its many calls made.
BATCH = 32


@dataclass
class Row:
    """A tree of tokens, depth first.

    Attributes:
        tokens: of every node.
        depths: of every node; the position that it has in its sequence.
        branches: (first node, its parent or -1) for each path of nodes that follow one another.
        paths: for each sequence the nodes of its tokens.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    branches: list[tuple[int, int]] = field(default_factory=list)
    paths: list[Integers] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, other: "Row") -> None:
        """Put another row behind this one; neither sees the other."""
        start = len(self)
        self.tokens += other.tokens
        self.depths += other.depths
        self.branches += [
            (first + start, parent + start if parent >= 0 else -1)
            for first, parent in other.branches
        ]
        self.paths += [path + start for path in other.paths]

    def add(self, sequence: Tokens, shared: int) -> None:
        """Add a sequence that begins like the one added before, for `shared` tokens."""
        start, before = len(self), self.paths[-1][:shared] if self.paths else _range(0, 0)
        if shared < len(sequence):
            parent = int(before[-1]) if shared else -1
            if not self.branches or parent != start - 1:
                self.branches.append((start, parent))
            self.tokens += sequence[shared:]
            self.depths += range(shared, len(sequence))
        self.paths.append(numpy.concatenate([before, _range(start, len(self))]))

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children: a plain causal mask is right."""
        return len(self.branches) < 2

    def mask(self, length: int) -> numpy.ndarray[tuple[int, int], numpy.dtype[numpy.bool_]]:
        """[length, length], true where the row's node sees the column's; padding sees itself."""
        sees = numpy.eye(length, dtype=bool)
        ends = [start for start, _ in self.branches[1:]] + [len(self)]
        for (start, parent), end in zip(self.branches, ends, strict=True):
            if parent >= 0:
                sees[start:end, :start] = sees[parent, :start]
            sees[start:end, start:end] = numpy.tri(end - start, dtype=bool)
        return sees


def shared_lengths(sequences: Sequence[Tokens]) -> list[int]:
    """How many tokens each sequence has in common with the one before it; the first has none."""
    found = [0]
    for one, other in itertools.pairwise(sequences):
        count = 0
        for left, right in zip(one, other, strict=False):
            if left != right:
                break
            count += 1
        found.append(count)
    return found[: len(sequences)]


def cheapest_rows(
    lengths: Sequence[int], shared: Sequence[int], *, longest: int, attention: float
) -> list[range]:
    """Cut sorted sequences into rows of neighbours, at the least cost in total.

    A row of L nodes costs L + L^2 / attention. With f(j) the least cost of the first j sequences,
    f(j) = min_{i < j} f(i) + cost(L(i, j)), L(i, j) = lengths[i] + sum_{i < k < j} (lengths[k] - shared[k]).

    Args:
        lengths: of the sequences.
        shared: see `shared_lengths`.
        longest: no row of several sequences has more nodes.
        attention: the row length at which attention costs as much as everything else.
    """
    own = numpy.asarray(lengths, dtype=float)
    through = numpy.cumsum(own - numpy.asarray(shared, dtype=float))
    least = numpy.zeros(len(own) + 1)
    first = numpy.zeros(len(own) + 1, dtype=int)
    for end in range(1, len(own) + 1):
        start = max(0, end - MOST)
        nodes = own[start:end] + (through[end - 1] - through[start:end])
        cost = least[start:end] + nodes + nodes**2 / attention
        cost[:-1][nodes[:-1] > longest] = numpy.inf
        best = int(cost.argmin())
        least[end], first[end] = cost[best], start + best
    return _walk_back(first)


def chains(lengths: Sequence[int], shared: Sequence[int]) -> list[range]:
    """Rows without branches: a sequence shares one with those that go on where it ends."""
    first = [k for k in range(len(lengths)) if k == 0 or shared[k] < lengths[k - 1]]
    return [range(a, b) for a, b in itertools.pairwise([*first, len(lengths)])]


def make_row(sequences: Sequence[Tokens], shared: Sequence[int], members: range) -> Row:
    """The row of some neighbours."""
    row = Row()
    for number in members:
        row.add(sequences[number], shared[number] if number > members.start else 0)
    return row


def plain_batches(lengths: Sequence[int], budget: int) -> list[list[list[int]]]:
    """Batches of rows as they are, for models that take no mask of ours: each place has one row.

    Rows times their longest length stay within `budget`; longest first, so that a device that is too small
    says so at once.
    """
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    found = list[list[list[int]]]()
    while order:
        count = max(1, budget // lengths[order[0]])
        found.append([[number] for number in order[:count]])
        order = order[count:]
    return found


def full_batches(
    lengths: Sequence[int], budget: int, *, longest: int, attention: float
) -> list[list[list[int]]]:
    """Batches in which rows stand behind one another where that leaves less padding.

    As `plain_batches`, but every place has one row or more. How long a place may be is what costs least:
    places * length * (1 + length / attention), and `BATCH` for each batch.

    Args:
        lengths: of the rows.
        budget: tokens of a batch, padding counted.
        longest: no place with several rows is longer, and rows that are have batches of their own, which
            need no mask.
        attention: see `cheapest_rows`.
    """
    over = [number for number, length in enumerate(lengths) if length > longest]
    apart = plain_batches([lengths[number] for number in over], budget)
    best, least = list[list[list[int]]](), math.inf
    for times in (1, 1.5, 2, 3, 4):
        tried = _filled(lengths, budget, times, longest, attention / 8)
        cost = 0.0
        for batch in tried:
            length = max(sum(lengths[number] for number in place) for place in batch)
            cost += BATCH + len(batch) * length * (1 + length / attention)
        if cost < least:
            best, least = tried, cost
    return [[[over[k] for k in place] for place in batch] for batch in apart] + best


def _filled(
    lengths: Sequence[int], budget: int, times: float, longest: int, cheap: float
) -> list[list[list[int]]]:
    """Best fit, longest first. A row much shorter than the longest opens no place where attention is dear."""
    left = sorted((length, number) for number, length in enumerate(lengths) if length <= longest)
    found = list[list[list[int]]]()
    while left:
        first = left[-1][0]
        length = max(first, min(int(times * first), longest, budget))
        batch, count = list[list[int]](), max(1, budget // length)
        while left and len(batch) < count and (length <= cheap or 2 * left[-1][0] >= first):
            size, number = left.pop()
            place, room = [number], length - size
            while (fitting := bisect.bisect_right(left, (room, math.inf))) > 0:
                size, number = left.pop(fitting - 1)
                place.append(number)
                room -= size
            batch.append(place)
        found.append(batch)
    return found


def _walk_back(first: "numpy.ndarray[tuple[int], numpy.dtype[numpy.int_]]") -> list[range]:
    rows, end = list[range](), len(first) - 1
    while end:
        rows.append(range(int(first[end]), end))
        end = int(first[end])
    return rows[::-1]


def _range(start: int, end: int) -> Integers:
    return numpy.arange(start, end, dtype=numpy.int64)
