"""Packing: sequences in stream order -> rows of one size."""

from collections.abc import Iterable, Iterator


def pack(lengths: Iterable[int], size: int, split: bool) -> Iterator[list[tuple[int, int, int]]]:
    """Fill rows of `size` tokens with sequences, in order.

    Args:
        lengths: tokens of each sequence, in stream order; they may be endless.
        size: tokens of a packed row.
        split: cut a sequence at the end of a row and continue it in the next (language modelling); otherwise
            a sequence that does not fit opens the next row, and one longer than a row is cut to it.

    Yields: rows of (sequence, start, end) pieces, each as soon as it is whole.
    """
    row: list[tuple[int, int, int]] = []
    room = size
    for number, length in enumerate(lengths):
        start = 0
        end = length if split else min(length, size)
        while start < end:
            if not split and end - start > room:
                yield row
                row, room = [], size
            taken = min(end - start, room)
            row.append((number, start, start + taken))
            start += taken
            room -= taken
            if room == 0:
                yield row
                row, room = [], size
    if row:
        yield row
