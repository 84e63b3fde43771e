"""A source's rows -> tokens, in batches; rows that the chat template refuses are left out and counted."""

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from cpt.data import Reader
from cpt.recipe import StageSpec
from cpt.rows import Row
from stages.base import Encoded, StageKind
from stages.encode import RefusedRowError
from stages.tokens_on_disk import RowFile, TokenFile

#: Rows of a batch. A streamed source ends with one, so that another number is another VERSION of the rows.
BATCH = 1000
SECONDS_BETWEEN_LINES = 30.0
NUM_EXAMPLES = 3


@dataclass
class Tokenised:
    """One source in the trainer's own columns.

    Attributes:
        rows: tokens, on disk; or rows that the trainer tokenises itself, as they are.
        num_tokens: of each of them.
        kept: which of the source's rows they are.
        num_dropped: those left without a label.
        num_refused, examples: those that the chat template refuses, and of a few why.
        total, longest: tokens of all rows, and of the longest.
        source: the rows as they were; on disk, where they arrived one by one.
    """

    name: str
    rows: TokenFile | list[Row] = field(default_factory=list)
    num_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    kept: "array[int]" = field(default_factory=lambda: array("q"))
    num_dropped: int = 0
    num_refused: int = 0
    examples: list[str] = field(default_factory=list)
    total: int = 0
    longest: int = 0
    source: Sequence[Row] | RowFile = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def close(self) -> None:
        """Give the space on disk back."""
        for file in (self.rows, self.source):
            if isinstance(file, TokenFile | RowFile):
                file.close()

    def add(self, start: int, part: Encoded, folder: Path) -> None:
        """Append what became of a batch whose first row is number `start` of the source."""
        if not self.rows and part.rows and TokenFile.holds(part.rows[0]):
            self.rows = TokenFile(folder)
        self.num_tokens.extend(part.num_tokens)
        self.kept.extend(start + number for number in part.kept)
        self.total += sum(part.num_tokens)
        self.longest = max(self.longest, *part.num_tokens, 0)
        self.num_dropped += part.num_dropped
        self.rows.extend(part.rows)


def tokenise(
    kind: StageKind,
    spec: StageSpec,
    tokenizer: Any,
    name: str,
    rows: Sequence[Row] | Reader,
    folder: Path,
    say: Callable[[str], None],
    numbers: Sequence[int] = (),
    is_enough: Callable[[Tokenised], bool] = lambda done: False,
) -> Tokenised:
    """Encode a source batch by batch, so that only one batch of tokens is ever in memory.

    Rows that arrive one by one are kept on disk, and no more of them are read than are needed.

    Args:
        name: of the source, for people.
        folder: where its tokens are kept, under no name.
        say: told now and then how far it is, when it takes long.
        numbers: of the rows in their file, for the examples of refused ones.
        is_enough: asked after each batch of rows that arrive.

    Raises:
        DataError: what is wrong with every row alike, such as a tokenizer without a template; what `Reader`
            refuses.
    """
    done = Tokenised(name, source=RowFile(folder) if isinstance(rows, Reader) else rows)
    began = time.monotonic()
    start = 0
    for batch, places in _batches(rows, numbers):
        try:
            parts = [(start, kind.encode(batch, tokenizer, spec))]
            refused: list[tuple[int, str]] = []
        except RefusedRowError:  # by one of them: each for itself
            parts, refused = _one_by_one(kind, spec, tokenizer, batch, start)
        for first, part in parts:
            done.add(first, part, folder)
        for number, reason in refused:
            done.num_refused += 1
            if len(done.examples) < NUM_EXAMPLES:
                done.examples.append(f"row {places[number - start]}: {reason}")
        start += len(batch)
        if time.monotonic() - began > SECONDS_BETWEEN_LINES:
            began = time.monotonic()
            if isinstance(rows, Reader):
                say(f"tokenising {name}: {done.total:,} tokens of {start:,} rows so far")
            else:
                say(f"tokenising {name}: {start:,} of {len(rows):,} rows")
        if isinstance(done.source, RowFile):
            done.source.extend(batch)
            if is_enough(done):
                break
    if isinstance(rows, Reader):
        rows.check()
    return done


def _batches(
    rows: Sequence[Row] | Reader, numbers: Sequence[int]
) -> Iterator[tuple[list[Row], Sequence[int]]]:
    """Rows, and the number of each in its source."""
    if isinstance(rows, Reader):
        arriving = iter(rows)
        while batch := list(islice(arriving, BATCH)):
            yield [row for _, row in batch], [number for number, _ in batch]
        return
    for start in range(0, len(rows), BATCH):
        part = list(rows[start : start + BATCH])
        yield part, numbers[start : start + BATCH] or range(start + 1, start + 1 + len(part))


def _one_by_one(
    kind: StageKind, spec: StageSpec, tokenizer: Any, batch: list[Row], start: int
) -> tuple[list[tuple[int, Encoded]], list[tuple[int, str]]]:
    parts, refused = [], []
    for number, row in enumerate(batch, start=start):
        try:
            parts.append((number, kind.encode([row], tokenizer, spec)))
        except RefusedRowError as error:
            refused.append((number, str(error)))
    return parts, refused
