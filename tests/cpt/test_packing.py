"""Packing fills rows of one size, in order."""

import random
from itertools import count, islice

import pytest

from cpt.packing import pack


def test_packing_by_hand() -> None:
    assert list(pack([3, 5, 2], 4, split=True)) == [
        [(0, 0, 3), (1, 0, 1)],
        [(1, 1, 5)],
        [(2, 0, 2)],
    ]
    assert list(pack([3, 5, 2, 2, 1], 4, split=False)) == [
        [(0, 0, 3)],
        [(1, 0, 4)],
        [(2, 0, 2), (3, 0, 2)],
        [(4, 0, 1)],
    ]
    assert list(pack([], 4, split=True)) == []


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_splitting_conserves_every_token_in_full_rows(size: int) -> None:
    draw = random.Random(size)
    lengths = [draw.randint(1, 150) for _ in range(200)]
    packed = list(pack(lengths, size, split=True))
    tokens = [(n, t) for row in packed for n, start, end in row for t in range(start, end)]
    assert tokens == [(n, t) for n, length in enumerate(lengths) for t in range(length)]
    sizes = [sum(end - start for _, start, end in row) for row in packed]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= size


def test_whole_sequences_share_rows_and_only_too_long_ones_are_cut() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(1, 150) for _ in range(200)]
    packed = list(pack(lengths, 100, split=False))
    pieces = [piece for row in packed for piece in row]
    assert pieces == [(n, 0, min(length, 100)) for n, length in enumerate(lengths)]
    assert all(sum(end - start for _, start, end in row) <= 100 for row in packed)


@pytest.mark.parametrize("split", [True, False])
def test_an_endless_stream_is_packed_as_far_as_it_is_asked_for(split: bool) -> None:
    endless = (10 + number % 50 for number in count())
    finite = [10 + number % 50 for number in range(200)]
    assert list(islice(pack(endless, 64, split), 30)) == list(pack(finite, 64, split))[:30]
