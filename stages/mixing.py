"""Tokenised sources -> the tables that the trainer takes: mixed, packed, written row by row."""

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from cpt.packing import pack
from cpt.past import NUM_EXEMPLARS
from cpt.recipe import StageSpec
from cpt.rows import Row
from cpt.stream import Mixer, Source, Stream, interleave
from stages.base import StageKind
from stages.tokenise import Tokenised
from stages.tokens_on_disk import Pieces, TokenFile, write_rows, write_tokens


def write_train(
    path: Path,
    kind: StageKind,
    spec: StageSpec,
    seed: int,
    sources: Sequence[Source],
    parts: Sequence[Tokenised],
) -> tuple[Stream, int]:
    """Write what the stage trains on.

    Returns: what was mixed, and the number of optimizer steps.
    """
    per_step = kind.rows_per_step(spec)
    steps = int(spec.train.get("max_steps", -1))
    epochs = float(spec.train.get("num_train_epochs", 1.0))
    packing = kind.pack(spec)
    if packing is None:
        uses = kind.uses_of_a_row(spec)
        batches = -(-steps // uses)
        wanted: dict[str, Any] = {"rows": batches * per_step} if steps > 0 else {"epochs": epochs}
        mixed = interleave(sources, seed, multiple_of=per_step, **wanted)
        _write_whole(path, parts, mixed.order)
        return mixed, steps if steps > 0 else len(mixed) // per_step * uses
    mixer = Mixer(sources, seed)
    if steps < 1:
        while not mixer.has_seen(epochs):
            mixer.draw()
        steps = -(-sum(1 for _ in pack(_lengths(mixer, parts, len(mixer)), *packing)) // per_step)
    last = 0

    def pieces() -> Iterator[Pieces]:
        nonlocal last
        # Of an endless stream every row is full, the last one too.
        for row in islice(pack(_lengths(mixer, parts, None), *packing), steps * per_step):
            last = row[-1][0]
            yield [
                (_file(parts[mixer.sources[n]]), mixer.rows[n], start, end) for n, start, end in row
            ]

    write_tokens(path, pieces(), packed=True)
    return mixer.first(last + 1), steps  # what was cut is not seen


def write_held_out(
    path: Path, kind: StageKind, spec: StageSpec, parts: Sequence[Tokenised]
) -> None:
    """Write the held-out rows, in their own order; nothing, where there are none."""
    order = [(source, row) for source, part in enumerate(parts) for row in range(len(part))]
    if not order:
        return
    packing = kind.pack(spec)
    if packing is None:
        _write_whole(path, parts, order)
        return
    pieces = [(_file(parts[source]), row) for source, row in order]
    packed = pack((file.length(row) for file, row in pieces), *packing)
    write_tokens(
        path, ([(*pieces[n], start, end) for n, start, end in row] for row in packed), packed=True
    )


def exemplars(
    fresh: Sequence[Sequence[Row]], parts: Sequence[Tokenised], mixed: Stream, seed: int
) -> list[Row]:
    """A uniform sample of the new rows that the stage saw, in the order in which it saw them first."""
    seen = array("q")
    drawn = [0] * len(parts)
    for place, source in enumerate(mixed.sources):
        if source < len(fresh) and drawn[source] < len(parts[source]):  # its first cycle
            seen.append(place)
        drawn[source] += 1
    if len(seen) > NUM_EXEMPLARS:
        kept = sorted(random.Random(f"{seed}/exemplars").sample(range(len(seen)), NUM_EXEMPLARS))
        seen = array("q", (seen[index] for index in kept))
    return [
        fresh[mixed.sources[place]][parts[mixed.sources[place]].kept[mixed.rows[place]]]
        for place in seen
    ]


def _lengths(mixer: Mixer, parts: Sequence[Tokenised], number: int | None) -> Iterator[int]:
    """Tokens of the stream's rows, one after the other; without a `number` there is no end."""
    for place in range(number) if number is not None else count():
        if place == len(mixer):
            mixer.draw()
        yield parts[mixer.sources[place]].num_tokens[mixer.rows[place]]


def _write_whole(path: Path, parts: Sequence[Tokenised], order: Iterable[tuple[int, int]]) -> None:
    """Write each row for itself: tokens, or what the trainer tokenises."""
    lists = {n: part.rows for n, part in enumerate(parts) if isinstance(part.rows, list)}
    if any(lists.values()):
        write_rows(path, [lists[source][row] for source, row in order])
        return
    write_tokens(
        path,
        ([(_file(parts[source]), row, 0, parts[source].num_tokens[row])] for source, row in order),
        packed=False,
    )


def _file(part: Tokenised) -> TokenFile:
    assert isinstance(part.rows, TokenFile), "only tokens are packed"
    return part.rows
