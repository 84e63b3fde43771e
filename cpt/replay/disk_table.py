"""A table of digests on disk: as much memory as there is holds it, and no more is needed."""

import mmap
import tempfile
from pathlib import Path

#: Of slots that are taken, before there are twice as many: a key is then found after two looks on average.
FULLEST = 0.6
FIRST_SLOTS = 1 << 12
_BLOCK = 1 << 20


class DiskTable:
    """Digests -> values of one size, in a file without a name that is mapped into memory.

    Pages of it that memory has no room for are written back and read again by the system. The first 8 bytes
    of a key choose its slot, the next free one is taken (linear probing), and the file has twice the slots
    before it is too full. A key and its value take 27 to 53 bytes of disk where they have 16.

    Args:
        key_size: bytes of a key, 8 at the least; keys must be spread evenly, as digests are.
        value_size: bytes of a value; 0 for a set.
        folder: where the file lies; the system's place for such files unless said.

    Raises:
        OSError: the disk is full. Its space is taken by writing: a hole that cannot be filled would kill the
            process when it is first touched.

    Source: Knuth, The Art of Computer Programming 3, 6.4, algorithm L; 2.5 looks at a load of 0.75 and 1.75
    at 0.6 for a key that is there.
    """

    def __init__(self, key_size: int, value_size: int = 0, folder: Path | None = None) -> None:
        assert key_size >= 8, "eight bytes of a key choose its slot"
        self._key_size, self._size, self._folder = key_size, key_size + value_size, folder
        self._free = bytes(key_size)
        self._number = 0
        self._open(FIRST_SLOTS)

    def __len__(self) -> int:
        return self._number

    def __contains__(self, key: bytes) -> bool:
        at = self._place(self._taken(key))
        return self._map[at : at + self._key_size] != self._free

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where it is not there."""
        at = self._place(self._taken(key))
        found = self._map[at : at + self._size]
        return None if found.startswith(self._free) else found[self._key_size :]

    def put(self, key: bytes, value: bytes = b"") -> None:
        """Set the value of a key."""
        key = self._taken(key)
        at = self._place(key)
        self._number += self._map[at : at + self._key_size] == self._free
        self._map[at : at + self._size] = key + value
        if self._number > FULLEST * (self._mask + 1):
            self._grow()

    def close(self) -> None:
        """Give the space back."""
        self._map.close()

    def _taken(self, key: bytes) -> bytes:
        """A key as it is written: zeros mark a free slot, and one digest of 2^64 or more has to give way."""
        return key if key != self._free else b"\1" * self._key_size

    def _place(self, key: bytes) -> int:
        """Where a key is, or would be."""
        slot = int.from_bytes(key[:8], "little") & self._mask
        found, size, length = self._map, self._size, self._key_size
        while True:
            at = slot * size
            there = found[at : at + length]
            if there == key or there == self._free:
                return at
            slot = (slot + 1) & self._mask

    def _grow(self) -> None:
        # A slot's entries go to that slot or to the one as far into the second half: both in order.
        before, size = self._map, self._size
        self._open(2 * (self._mask + 1))
        for start in range(0, len(before), size * 4096):
            block = before[start : start + size * 4096]
            for at in range(0, len(block), size):
                key = block[at : at + self._key_size]
                if key != self._free:
                    to = self._place(key)
                    self._map[to : to + size] = block[at : at + size]
        before.close()

    def _open(self, slots: int) -> None:
        length = slots * self._size
        with tempfile.TemporaryFile(dir=self._folder) as file:  # the map keeps it
            for start in range(0, length, _BLOCK):
                file.write(bytes(min(_BLOCK, length - start)))
            file.flush()
            self._map = mmap.mmap(file.fileno(), length)
        self._mask = slots - 1
