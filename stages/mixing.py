"""Tokenised sources -> the tables that the trainer takes: mixed, packed, written row by row."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from cpt.errors import DataError
from cpt.packing import pack
from cpt.recipe import StageSpec
from cpt.replay.fluid import Part, length_of_epochs, length_of_room, strata
from cpt.stream import Mixer, Source, Stream, interleave
from stages.base import StageKind
from stages.seen import Ends
from stages.tokenise import Tokenised
from stages.tokens_on_disk import Pieces, TokenFile, write_rows, write_tokens


def is_enough(
    kind: StageKind, spec: StageSpec, share: float, unit: str
) -> Callable[[Tokenised], bool]:
    """Whether a source that arrives row by row has what its share of the whole stage takes, if steps end it.

    Where rows are packed and shares count tokens, that is its share of them and twice its longest row: the
    last row of the stream is drawn whole, and a source strays from its share by a row. If another source's
    rows are longer, it may begin a second cycle. Otherwise it is as much as the whole stream holds at most.
    """
    steps = int(spec.train.get("max_steps", -1))
    if steps < 1:
        return lambda done: False
    packing = kind.pack(spec)
    if packing is None:
        num_rows = -(-steps // kind.uses_of_a_row(spec)) * kind.rows_per_step(spec)
        return lambda done: len(done) >= num_rows
    num_tokens = steps * kind.rows_per_step(spec) * packing[0]
    num_tokens = math.ceil(num_tokens * share) if unit == "tokens" else num_tokens
    return lambda done: done.total >= num_tokens + 2 * done.longest


def write_train(
    path: Path,
    kind: StageKind,
    spec: StageSpec,
    seed: int,
    sources: Sequence[Source],
    parts: Sequence[Tokenised],
    in_batches: bool = False,
) -> tuple[Stream, Ends]:
    """Write what the stage trains on.

    Args:
        in_batches: every batch, rather than the stream, has the shares of what is replayed.

    Returns: what was mixed, and where in it each optimizer step ends.

    Raises:
        DataError: shares of batches that are packed, or that no whole row can meet.
    """
    per_step = kind.rows_per_step(spec)
    steps = int(spec.train.get("max_steps", -1))
    epochs = float(spec.train.get("num_train_epochs", 1.0))
    packing = kind.pack(spec)
    pattern = _pattern(sources, per_step, packing is not None) if in_batches else []
    ends = Ends()
    if packing is None:
        uses = kind.uses_of_a_row(spec)
        batches = -(-steps // uses)
        wanted: dict[str, Any] = {"rows": batches * per_step} if steps > 0 else {"epochs": epochs}
        room = batches * per_step if steps > 0 else None
        wanted["length"] = _length(sources, parts, room, False, epochs)
        mixed = interleave(sources, seed, multiple_of=per_step, pattern=pattern, **wanted)
        _write_whole(path, parts, mixed.order)
        for step in range(1, (steps if steps > 0 else len(mixed) // per_step * uses) + 1):
            ends.add(min(kind.rows_until(spec, step), len(mixed)))
        return mixed, ends
    room = steps * per_step * packing[0] if steps > 0 else None
    mixer = Mixer(sources, seed, _length(sources, parts, room, True, epochs))
    if steps < 1:
        while not mixer.has_seen(epochs):
            mixer.draw()
        steps = -(-sum(1 for _ in pack(_lengths(mixer, parts, len(mixer)), *packing)) // per_step)

    def pieces() -> Iterator[Pieces]:
        # Of an endless stream every row is full, the last one too.
        rows = islice(pack(_lengths(mixer, parts, None), *packing), steps * per_step)
        for number, row in enumerate(rows, start=1):
            last, _, end = row[-1]
            if number % per_step == 0:
                length = parts[mixer.sources[last]].num_tokens[mixer.rows[last]]
                ends.add(last + 1, length - end)
            yield [
                (_file(parts[mixer.sources[n]]), mixer.rows[n], start, end) for n, start, end in row
            ]

    write_tokens(path, pieces(), packed=True)
    return mixer.first(ends.places[-1]), ends  # what was cut is not seen


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


def _pattern(sources: Sequence[Source], per_step: int, is_packed: bool) -> list[int]:
    """The sources of each place of a batch."""
    if is_packed:
        raise DataError(
            "replay: mode: batch counts rows of a batch, and packed rows hold pieces of several sources; "
            "use mode: stream"
        )
    shares = [0.0 if source.fresh else source.share for source in sources]
    return strata(shares, per_step, [source.name for source in sources])


def _length(
    sources: Sequence[Source],
    parts: Sequence[Tokenised],
    room: int | None,
    is_packed: bool,
    epochs: float,
) -> float | None:
    """How much the whole stage will take, in the unit of the shares; None where no share changes.

    Args:
        room: tokens of all packed rows, or the number of rows; None where epochs end the stage.
    """
    if all(source.schedule is None for source in sources):
        return None
    known: list[Part] = [(source.share, source.fresh, source.schedule) for source in sources]
    totals = [float(sum(source.amounts)) for source in sources]
    if room is None:
        return length_of_epochs(known, totals, epochs)
    rows = [max(len(part), 1) for part in parts]
    amounts = [total / number for total, number in zip(totals, rows, strict=True)]
    rooms = [part.total / number for part, number in zip(parts, rows, strict=True)]
    return length_of_room(known, amounts, rooms if is_packed else [1.0] * len(parts), room)


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
