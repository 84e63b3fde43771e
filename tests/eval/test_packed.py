"""Packed rows: what a token sees, and the least cost of all ways to cut."""

import itertools
import random

import numpy
import pytest

from eval.packed import Tokens, batches, chains, cheapest_rows, make_row, shared_lengths


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


def test_batches_hold_so_many_tokens_and_the_longest_comes_first() -> None:
    trees = [[(1, 2), (1, 3)], [(1, 2, 3), (1, 2, 4), (1, 3)], [(9,)], [(9, 9, 9, 9)]]
    rows = [make_row(each, shared_lengths(each), range(len(each))) for each in trees]
    assert [len(row) for row in rows] == [3, 5, 1, 4]
    assert batches(rows, 10) == [[1, 0], [3, 2]]
    assert batches(rows, 5) == [[1], [3], [0], [2]]
    assert batches(rows, 1) == [[1], [3], [0], [2]]
    assert batches([], 10) == []
