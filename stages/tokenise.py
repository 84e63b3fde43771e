"""A source's rows -> tokens, in batches; rows that the chat template refuses are left out and counted."""

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt.recipe import StageSpec
from cpt.rows import Row
from stages.base import Encoded, StageKind
from stages.encode import RefusedRowError
from stages.tokens_on_disk import TokenFile

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
    """

    name: str
    rows: TokenFile | list[Row] = field(default_factory=list)
    num_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    kept: "array[int]" = field(default_factory=lambda: array("q"))
    num_dropped: int = 0
    num_refused: int = 0
    examples: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def close(self) -> None:
        """Give the space on disk back."""
        if isinstance(self.rows, TokenFile):
            self.rows.close()

    def add(self, start: int, part: Encoded, folder: Path) -> None:
        """Append what became of a batch whose first row is number `start` of the source."""
        if not self.rows and part.rows and TokenFile.holds(part.rows[0]):
            self.rows = TokenFile(folder)
        self.num_tokens.extend(part.num_tokens)
        self.kept.extend(start + number for number in part.kept)
        self.num_dropped += part.num_dropped
        self.rows.extend(part.rows)


def tokenise(
    kind: StageKind,
    spec: StageSpec,
    tokenizer: Any,
    name: str,
    rows: list[Row],
    folder: Path,
    say: Callable[[str], None],
    numbers: Sequence[int] = (),
) -> Tokenised:
    """Encode a source batch by batch, so that only one batch of tokens is ever in memory.

    Args:
        name: of the source, for people.
        folder: where its tokens are kept, under no name.
        say: told now and then how far it is, when it takes long.
        numbers: of the rows in their file, for the examples of refused ones.

    Raises:
        DataError: what is wrong with every row alike, such as a tokenizer without a template.
    """
    done = Tokenised(name)
    began = time.monotonic()
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
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
                place = numbers[number] if number < len(numbers) else number + 1
                done.examples.append(f"row {place}: {reason}")
        if time.monotonic() - began > SECONDS_BETWEEN_LINES:
            began = time.monotonic()
            say(f"tokenising {name}: {start + len(batch):,} of {len(rows):,} rows")
    return done


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
