"""Rows on disk: a source's tokens while a stream is made, and the stream's table as the trainer opens it."""

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cpt.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

COLUMNS = ("input_ids", "labels")
BYTES = 4  # of a token


class Readable(Protocol):
    """Rows of tokens that can be read piece by piece."""

    def read(self, row: int, start: int, end: int) -> "tuple[np.ndarray, np.ndarray]":
        """Ids and labels of a piece of a row."""
        ...


#: A row of the stream: (source, row, start, end) of each of its pieces.
Pieces = list[tuple[Readable, int, int, int]]


class TokenFile:
    """Token ids and labels of one source, appended row by row and read again in any order.

    A row's ids, then its labels, as 32-bit numbers; only where each row begins is in memory. The file has no
    name and ends with the process, however that ends.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
        self._starts = array("q", [0])

    @staticmethod
    def holds(row: Row) -> bool:
        """Whether a row is one of tokens, rather than one that the trainer tokenises itself."""
        return set(row) == set(COLUMNS)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        for row in rows:
            for column in COLUMNS:
                array("i", row[column]).tofile(self._file)
            self._starts.append(self._starts[-1] + len(row["input_ids"]))
        self._file.flush()

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def length(self, row: int) -> int:
        """Tokens of a row."""
        return self._starts[row + 1] - self._starts[row]

    def read(self, row: int, start: int, end: int) -> "tuple[np.ndarray, np.ndarray]":
        """Ids and labels of a piece of a row."""
        import numpy as np

        length = self.length(row)
        both = os.pread(self._file.fileno(), 2 * length * BYTES, 2 * self._starts[row] * BYTES)
        numbers = np.frombuffer(both, dtype=np.int32)
        return numbers[start:end], numbers[length + start : length + end]


class TokenTable:
    """A table that `write_tokens` wrote, to be read again in another order."""

    def __init__(self, table: "Dataset") -> None:
        self._table = table
        self.is_packed = "seq_lengths" in table.column_names

    def __len__(self) -> int:
        return len(self._table)

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        import pyarrow.compute

        lengths = pyarrow.compute.list_value_length(self._table.data.column("input_ids"))
        return int(pyarrow.compute.sum(lengths).as_py() or 0)

    def pieces(self, row: int) -> Pieces:
        """A row's pieces; one, where it is not packed."""
        found = self._table[row]
        ends = list(accumulate(found.get("seq_lengths", [len(found["input_ids"])])))
        return [(self, row, start, end) for start, end in pairwise([0, *ends])]

    def read(self, row: int, start: int, end: int) -> "tuple[np.ndarray, np.ndarray]":
        """Ids and labels of a piece of a row."""
        import numpy as np

        found = self._table[row]
        ids, labels = (np.array(found[column], dtype=np.int32) for column in COLUMNS)
        return ids[start:end], labels[start:end]


class RowFile:
    """Rows as they arrived, for the few that become exemplars; likewise without a name."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
        self._starts = array("q", [0])

    def __getitem__(self, row: int) -> Row:
        start, end = self._starts[row], self._starts[row + 1]
        return dict(json.loads(os.pread(self._file.fileno(), end - start, start)))

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        for row in rows:
            # As exemplars are written: what JSON has no word for becomes text.
            line = json.dumps(row, default=str).encode()
            self._starts.append(self._starts[-1] + self._file.write(line))
        self._file.flush()

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


def as_dataset(rows: list[Row]) -> "Dataset":
    """Rows as an Arrow table with the columns that any row has; where a row has none, it holds None."""
    from datasets import Dataset

    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows of any columns as Arrow."""
    import pyarrow

    table = as_dataset(rows).data.table
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)


def write_tokens(path: Path, rows: Iterable[Pieces], packed: bool, most: int = 1 << 20) -> None:
    """Write rows of tokens as Arrow, about `most` tokens at a time.

    Args:
        rows: of each row the pieces, which are read from their sources as they are written.
        packed: whether each row says how long its pieces are (`seq_lengths`).
    """
    import pyarrow

    tokens = pyarrow.list_(pyarrow.int32())
    names = [*COLUMNS, *(["seq_lengths"] if packed else [])]
    schema = pyarrow.schema([(name, tokens) for name in names])
    with pyarrow.ipc.new_stream(path, schema) as writer:
        for batch in _batches(rows, most):
            writer.write_batch(_record_batch(batch, schema))


def _batches(rows: Iterable[Pieces], most: int) -> Iterator[list[Pieces]]:
    batch: list[Pieces] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(end - start for _, _, start, end in row)
        if size >= most or len(batch) == 1000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _record_batch(batch: list[Pieces], schema: Any) -> Any:
    import numpy as np
    import pyarrow

    read = [[source.read(row, start, end) for source, row, start, end in row] for row in batch]
    columns = [
        (
            np.concatenate([piece[column] for row in read for piece in row]),
            [sum(len(piece[column]) for piece in row) for row in read],
        )
        for column in range(len(COLUMNS))
    ]
    if "seq_lengths" in schema.names:
        lengths = [len(ids) for row in read for ids, _ in row]
        columns.append((np.array(lengths, dtype=np.int32), [len(row) for row in read]))
    lists = [
        pyarrow.ListArray.from_arrays(
            pyarrow.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)),
            pyarrow.array(values),
        )
        for values, sizes in columns
    ]
    return pyarrow.record_batch(lists, schema=schema)
