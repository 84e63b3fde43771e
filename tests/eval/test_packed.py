"""Packed rows: what a token sees, and the least cost of all ways to cut."""

import itertools
import random
from typing import Any

import numpy
import pytest

from eval.packed import (
    Tokens,
    chains,
    cheapest_rows,
    full_batches,
    make_row,
    plain_batches,
    shared_lengths,
)


def drawn(seed: int, count: int = 30) -> list[Tokens]:
    source = random.Random(seed)
    return sorted({tuple(source.choices((5, 6), k=source.randint(1, 9))) for _ in range(count)})


def test_a_row_of_a_context_with_two_choices_and_one_that_goes_on() -> None:
    sequences = [(1, 2), (1, 2, 3), (1, 2, 4, 5), (1, 9)]
    shared = shared_lengths(sequences)
    assert shared == [0, 2, 2, 1]
    row = make_row(sequences, shared, range(4))
    assert row.tokens == [1, 2, 3, 4, 5, 9]
    assert row.depths == [0, 1, 2, 2, 3, 1]
    assert row.branches == [(0, -1), (3, 1), (5, 0)]
    assert [path.tolist() for path in row.paths] == [[0, 1], [0, 1, 2], [0, 1, 3, 4], [0, 5]]
    assert row.mask(7).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_sequence_is_a_path_that_sees_itself_alone(seed: int) -> None:
    sequences = drawn(seed)
    row = make_row(sequences, shared_lengths(sequences), range(len(sequences)))
    sees = row.mask(len(row))
    for sequence, path in zip(sequences, row.paths, strict=True):
        assert tuple(row.tokens[node] for node in path) == sequence
        assert [row.depths[node] for node in path] == [*range(len(sequence))]
        for depth, node in enumerate(path):
            assert numpy.flatnonzero(sees[node]).tolist() == path[: depth + 1].tolist()
    assert len(row) == len({s[:k] for s in sequences for k in range(1, len(s) + 1)})


def test_a_row_of_one_sequence_and_its_beginnings_needs_no_mask() -> None:
    sequences = [(1,), (1, 2), (1, 2, 3), (2, 2), (2, 3)]
    shared = shared_lengths(sequences)
    assert make_row(sequences, shared, range(3)).is_chain
    assert not make_row(sequences, shared, range(4)).is_chain
    assert chains([1, 2, 3, 2, 2], shared) == [range(3), range(3, 4), range(4, 5)]
    assert chains([], []) == []


@pytest.mark.parametrize(("attention", "longest"), [(2.0, 99), (20.0, 99), (1e9, 99), (1e9, 12)])
def test_rows_cost_as_little_as_the_best_of_all_cuts(attention: float, longest: int) -> None:
    for seed in range(5):
        sequences = drawn(seed, 9)
        shared, count = shared_lengths(sequences), len(sequences)

        def cost(cut: list[range]) -> float:
            rows = [len(make_row(sequences, shared, part)) for part in cut]  # noqa: B023
            if any(n > longest and len(p) > 1 for n, p in zip(rows, cut, strict=True)):
                return float("inf")
            return sum(n + n * n / attention for n in rows)

        every = [
            [range(a, b) for a, b in itertools.pairwise([0, *inner, count])]
            for size in range(count)
            for inner in itertools.combinations(range(1, count), size)
        ]
        lengths = [len(sequence) for sequence in sequences]
        found = cheapest_rows(lengths, shared, longest=longest, attention=attention)
        assert [number for part in found for number in part] == [*range(count)]
        assert cost(found) == pytest.approx(min(map(cost, every)))


def test_what_shares_nothing_is_not_packed_and_attention_limits_what_does() -> None:
    assert cheapest_rows([5, 5], [0, 0], longest=99, attention=1e9) == [range(1), range(1, 2)]
    assert cheapest_rows([50, 50], [0, 40], longest=99, attention=1e9) == [range(2)]
    assert len(cheapest_rows([50, 50], [0, 1], longest=999, attention=100)) == 2
    assert cheapest_rows([], [], longest=9, attention=1) == []


def test_plain_batches_hold_so_many_tokens_and_the_longest_comes_first() -> None:
    assert plain_batches([3, 5, 1, 4], 10) == [[[1], [3]], [[0], [2]]]
    assert plain_batches([3, 5, 1, 4], 5) == [[[1]], [[3]], [[0]], [[2]]]
    assert plain_batches([3, 5, 1, 4], 1) == [[[1]], [[3]], [[0]], [[2]]]
    assert plain_batches([], 10) == []


def test_rows_stand_behind_one_another_where_that_leaves_less_padding() -> None:
    def full(lengths: list[int], budget: int, **changes: float) -> list[list[list[int]]]:
        limits: dict[str, Any] = {"longest": 100, "attention": 1e9} | changes
        return full_batches(lengths, budget, **limits)

    assert full([10, 6, 4], 20) == [[[0], [1, 2]]]
    assert full([7, 7, 7, 3, 3, 3], 30) == [[[2, 5], [1, 4], [0, 3]]]
    assert full([6, 6, 4, 4], 20) == [[[1, 0, 3, 2]]]
    # Where attention costs as much at length 1, a place is no longer than it must be.
    assert full([6, 6, 4, 4], 20, attention=1.0) == [[[1], [0]], [[3], [2]]]
    # What is longer than `longest` is left alone, and with its like: it must not be masked.
    assert full([50, 8, 4, 4], 200, longest=9) == [[[0]], [[1], [3, 2]]]
    assert full([], 10) == []


@pytest.mark.parametrize("seed", range(10))
def test_full_batches_keep_every_row_within_their_limits(seed: int) -> None:
    source = random.Random(seed)
    lengths = [source.choice((3, 8, 30, 110)) + source.randrange(9) for _ in range(60)]
    budget, longest = source.choice((40, 150, 500)), source.choice((50, 100))
    found = full_batches(lengths, budget, longest=longest, attention=200.0)
    numbers = [number for batch in found for place in batch for number in place]
    assert sorted(numbers) == [*range(60)]
    for batch in found:
        sizes = [sum(lengths[number] for number in place) for place in batch]
        assert len(batch) * max(sizes) <= budget or len(batch) == 1
        for place, size in zip(batch, sizes, strict=True):
            assert size <= min(longest, budget) or len(place) == 1
    firsts = [max(lengths[n] for place in batch for n in place) for batch in found]
    assert firsts == sorted(firsts, reverse=True)


def test_rows_behind_one_another_do_not_see_one_another() -> None:
    one, other = [(1, 2), (1, 3)], [(4,), (4, 5)]
    row = make_row(one, shared_lengths(one), range(2))
    row.append(make_row(other, shared_lengths(other), range(2)))
    assert (row.tokens, row.depths) == ([1, 2, 3, 4, 5], [0, 1, 1, 0, 1])
    assert [path.tolist() for path in row.paths] == [[0, 1], [0, 2], [3], [3, 4]]
    assert row.mask(5)[3:].astype(int).tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert not row.is_chain
