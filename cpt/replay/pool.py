"""The old rows that a stage can rehearse: of earlier stages, or of a data set; all, or a buffer's part."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from cpt.data import Reader, Rows, open_rows, refuse_beyond
from cpt.data_spec import DataSpec
from cpt.errors import DataError, HookError
from cpt.past import PastStage
from cpt.rehearsal import Example
from cpt.replay.buffers import QuotaBuffer, Reservoir, quotas, reservoir_parts
from cpt.replay.settings import BufferSpec
from cpt.rows import Row, RowFormat

#: As `StageContext.encode`.
Encode = Callable[[Sequence[Row]], list[Example]]


@dataclass(frozen=True)
class Part:
    """Rows of one source, of which `size` are yet to be chosen; all, where nothing is said.

    Attributes:
        stage: which left them, or whose weights stand for them where they are of a data set.
    """

    stage: PastStage
    rows: list[Row] = field(repr=False)
    size: int | None = None


def parts_of(
    stages: Sequence[PastStage], buffer: BufferSpec | None, seed: int, uniform: bool
) -> list[Part]:
    """What the stages left, and how much of it a buffer takes.

    Args:
        uniform: take a uniform sample now; otherwise rows are chosen later, `size` of each part.

    Raises:
        HookError: a buffer smaller than the number of stages, or larger than what they left.
    """
    found = [Part(stage, stage.rows()) for stage in stages]
    found = [part for part in found if part.rows]
    if buffer is None or not found:
        return found
    if buffer.policy == "quota":
        sizes = quotas(buffer.size, len(found))
    else:
        sizes = reservoir_parts(buffer.size, [_seen(part) for part in found], seed)
    for part, size in zip(found, sizes, strict=True):
        _check_left(part, size)
    if not uniform:
        return [replace(part, size=size) for part, size in zip(found, sizes, strict=True)]
    if buffer.policy == "quota":
        # Stage after stage, as they came: what an earlier stage's replay kept holds what this one keeps.
        filled: QuotaBuffer[Row] = QuotaBuffer(buffer.size, seed)
        for number, part in enumerate(found):
            filled.add(str(number), part.rows)
        kept = list(filled.stages.values())
    else:
        draw = random.Random(f"{seed}/reservoir")
        kept = [
            [part.rows[place] for place in sorted(draw.sample(range(len(part.rows)), size))]
            for part, size in zip(found, sizes, strict=True)
        ]
    return [replace(part, rows=rows) for part, rows in zip(found, kept, strict=True) if rows]


def _seen(part: Part) -> int:
    return max(part.stage.num_seen, len(part.rows))


def _check_left(part: Part, size: int) -> None:
    left, seen = len(part.rows), _seen(part)
    if size > left and seen > left:
        raise HookError(
            f"replay: buffer: {part.stage.name} has {size} of its rows, and left {left} of the {seen} that "
            f"it saw; set `exemplars: {min(size, seen)}` in that stage, or a smaller buffer here"
        )


def source_rows(
    spec: DataSpec, formats: tuple[RowFormat, ...], size: int | None, seed: int
) -> Rows | Reader:
    """The rows of a data set, or a uniform sample of `size` of them."""
    opened = open_rows(spec, formats)
    if size is None:
        return opened
    numbered: Reservoir[tuple[int, Row]] = Reservoir(size, f"{seed}/reservoir")
    pairs: Iterable[tuple[int, Row]] = (
        opened if isinstance(opened, Reader) else zip(opened.numbers, opened.rows, strict=True)
    )
    for pair in pairs:
        numbered.add(pair)
    if isinstance(opened, Reader):
        opened.check()
    assert opened.format is not None, "a good row has a format"
    kept = sorted(numbered.items, key=lambda pair: pair[0])
    return Rows(
        spec,
        [row for _, row in kept],
        opened.format,
        opened.num_bad,
        opened.examples_of_bad,
        [number for number, _ in kept],
    )


def encoded(
    rows: Sequence[Row], encode: Encode, max_bad: float, name: str
) -> tuple[list[int], list[Example]]:
    """Rows in tokens, and which rows they are: those that have a label.

    Raises:
        DataError: the chat template refuses more of them than `max_bad` allows.
    """
    places: list[int] = []
    examples: list[Example] = []
    reasons: list[str] = []
    for place, row in enumerate(rows):
        try:
            made = encode([row])
        except DataError as error:  # the template's, of this row; beyond `max_bad` it is told
            reasons.append(str(error))
            continue
        if made and made[0].num_labels:
            places.append(place)
            examples.append(made[0])
    refuse_beyond(max_bad, len(reasons), len(rows), reasons[:3], name)
    return places, examples
