"""Rows that may be near duplicates of one: those that share a band of MinHash with it; on disk."""

import hashlib
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpt.replay.disk_table import DiskTable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class NearIndex:
    """Sets of shingles by their bands; only where each set begins is in memory, 8 bytes a row.

    A table on disk has for each band, by a digest of 8 bytes, the latest entry; each entry names the one
    before it of the same band. Two bands with one digest (2^-64) give a candidate more, which its true
    similarity refuses.

    Args:
        num_bands: of a row.
        folder: where its files lie, without a name.
    """

    def __init__(self, num_bands: int, folder: Path | None = None) -> None:
        self._num_bands = num_bands
        self._latest = DiskTable(8, 8, folder)
        self._previous = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
        self._shingles = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def candidates(self, bands: Sequence[bytes]) -> set[int]:
        """The rows that share a band."""
        found: set[int] = set()
        for key in self._keys(bands):
            entry = self._number(self._latest.get(key) or b"")
            while entry:  # from 1: 0 is the end
                found.add((entry - 1) // self._num_bands)
                entry = self._number(os.pread(self._previous.fileno(), 8, 8 * (entry - 1)))
        return found

    def shingles(self, row: int) -> "NDArray[np.uint64]":
        """A row's set, sorted."""
        import numpy as np

        start, end = self._starts[row], self._starts[row + 1]
        read = os.pread(self._shingles.fileno(), 8 * (end - start), 8 * start)
        return np.frombuffer(read, dtype=np.uint64)

    def add(self, bands: Sequence[bytes], shingles: "NDArray[np.uint64]") -> None:
        """Append a row.

        Raises:
            OSError: the disk is full.
        """
        first = len(self) * self._num_bands + 1
        previous = b""
        for entry, key in enumerate(self._keys(bands), start=first):
            previous += self._latest.get(key) or bytes(8)
            self._latest.put(key, entry.to_bytes(8, "little"))
        _append(self._previous.fileno(), previous, 8 * (first - 1))
        _append(self._shingles.fileno(), shingles.tobytes(), 8 * self._starts[-1])
        self._starts.append(self._starts[-1] + len(shingles))

    def _keys(self, bands: Sequence[bytes]) -> list[bytes]:
        return [
            hashlib.blake2b(band, digest_size=8, salt=number.to_bytes(2, "little")).digest()
            for number, band in enumerate(bands)
        ]

    @staticmethod
    def _number(entry: bytes) -> int:
        return int.from_bytes(entry, "little")


def _append(file: int, data: bytes, place: int) -> None:
    while data:  # a disk that fills up takes a part
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written
