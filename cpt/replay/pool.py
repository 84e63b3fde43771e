"""The old rows of earlier stages that a stage can rehearse: all, or a buffer's part of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cpt.errors import HookError
from cpt.old_rows import rows_left
from cpt.past import Past, PastStage
from cpt.replay.buffers import QuotaBuffer, quotas, reservoir_parts
from cpt.replay.settings import BufferSpec
from cpt.rows import Row


@dataclass(frozen=True)
class Part:
    """Rows of one source, of which `size` are yet to be chosen; all, where nothing is said.

    Attributes:
        stage: which left them, or whose weights stand for them where they are of a data set.
    """

    stage: PastStage
    rows: Sequence[Row] = field(repr=False)
    size: int | None = None


def parts_of(
    past: Past, of: str | Sequence[str], buffer: BufferSpec | None, seed: int, uniform: bool
) -> list[Part]:
    """What the stages that `of` names left, and how much of it a buffer takes.

    Args:
        uniform: take a uniform sample now; otherwise rows are chosen later, `size` of each part.

    Raises:
        HookError: a stage without rows; a buffer smaller than the number of stages, or larger than what they
            left.
    """
    found = [Part(stage, rows) for stage, rows in rows_left(past, of, "replay").items()]
    if buffer is None:
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
