"""Rows of a data set by position, where only their places are in memory: 8 bytes a row."""

import os
import pickle
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, overload

from cpt.errors import DataError
from cpt.files import is_json_lines, json_line, json_lines
from cpt.rows import Row

#: So much of rows that are written down stays in memory: a small data set needs no disk.
IN_MEMORY = 1 << 24
_MOST_OPEN = 32


class RowTable(Sequence[Row]):
    """Rows that are read when they are asked for, each time anew.

    Args:
        read: a place -> its row.
        places: of the rows, in their order.
    """

    def __init__(self, read: Callable[[int], Row], places: "array[int]") -> None:
        self._read, self._places = read, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._read(place) for place in self._places[index]]
        return self._read(self._places[index])

    def __eq__(self, other: object) -> bool:
        """Whether a sequence holds equal rows, wherever they lie."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            one == another for one, another in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def take(self, positions: Sequence[int]) -> "RowTable":
        """Some of the rows."""
        return RowTable(self._read, array("q", (self._places[at] for at in positions)))


class JsonLines:
    """Raw rows of JSON Lines files, in order, and again by the place where their lines begin.

    A place counts bytes from the first file's beginning. At most 32 files are open at a time.

    Attributes:
        place: of the row that the iteration gave last.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.place = 0
        self._files = files
        self._signs = [_sign(file) for file in files]
        self._starts = list(accumulate((size for size, _ in self._signs), initial=0))
        self._open: dict[int, IO[bytes]] = {}

    @staticmethod
    def of(files: Sequence[Path], kind: str | None) -> "JsonLines | None":
        """Of files that all are JSON Lines and not packed; else None."""
        return JsonLines(files) if all(is_json_lines(file, kind) for file in files) else None

    def __iter__(self) -> Iterator[Row]:
        for file, start in zip(self._files, self._starts, strict=False):
            for offset, row in json_lines(file):
                self.place = start + offset
                yield row

    def read(self, place: int) -> Row:
        """The row whose line begins there.

        Raises:
            DataError: the file is not what it was when its rows were counted.
        """
        number = bisect_right(self._starts, place, hi=len(self._files)) - 1
        stream = self._stream(number)
        told = os.fstat(stream.fileno())
        if (told.st_size, told.st_mtime_ns) != self._signs[number]:
            raise DataError(
                f"data: {self._files[number]}: changed while the stage read it; run the same command again"
            )
        stream.seek(place - self._starts[number])
        line = stream.readline()
        row = json_line(line.splitlines()[0] if b"\r" in line else line)
        assert row is not None, "a place is that of a row"
        return row

    def _stream(self, number: int) -> IO[bytes]:
        if number not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            file = self._files[number]
            try:
                self._open[number] = file.open("rb")
            except OSError as error:
                raise DataError(f"data: {file}: cannot be read: {error}") from None
        return self._open[number]


class Spool:
    """Rows that can be read once only, as those of packed files and of the hub, written down as they come.

    In memory up to 16 MiB, then in a file without a name where the system puts such files (TMPDIR).
    """

    def __init__(self) -> None:
        # Only this process writes it, and nobody else can open it: what it unpickles is its own.
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - lives as long as this

    def add(self, row: Row) -> int:
        """Write a row down; returns its place."""
        place = self._file.seek(0, 2)
        pickle.dump(row, self._file, pickle.HIGHEST_PROTOCOL)
        return place

    def read(self, place: int) -> Row:
        """The row at a place."""
        self._file.seek(place)
        found: Any = pickle.load(self._file)
        return dict(found)


def _sign(file: Path) -> tuple[int, int]:
    try:
        told = file.stat()
    except OSError as error:
        raise DataError(f"data: {file}: cannot be read: {error}") from None
    return told.st_size, told.st_mtime_ns
