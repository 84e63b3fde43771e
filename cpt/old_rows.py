"""Rows for batches beside the stage's own: exemplars of earlier stages, or a part of a data set."""

import random
from collections.abc import Sequence
from itertools import islice

from cpt.data import Reader, load_rows
from cpt.data_spec import DataSpec
from cpt.errors import HookError
from cpt.past import Past, PastStage
from cpt.rows import RICHEST, Row


def rows_of_stages(
    past: Past, of: str | Sequence[str], size: int, seed: int, name: str
) -> list[tuple[PastStage, list[Row]]]:
    """`size` exemplars in all, the same number of each stage where they have as many; drawn uniformly.

    Args:
        past: what there is.
        of: the stages; `all` are those that left any.
        size: the first stages have one more where it does not divide.
        seed: decides which rows.
        name: of the hook, for errors.

    Raises:
        HookError: no such stage, or one that left none.
    """
    stages = {stage.name: stage for stage in past.select(of)}
    left = {stage: rows for stage in stages.values() if (rows := stage.rows())}
    without = [stage.name for stage in stages.values() if stage not in left]
    if without and (of != "all" or not left):
        raise HookError(
            f"{name}: {without[0]} left no exemplars (the base model has none); name another stage"
        )
    if size < len(left):
        raise HookError(
            f"{name}: size: {size} rows are fewer than the {len(left)} stages that they are of"
        )
    quotas = [size // len(left) + (number < size % len(left)) for number in range(len(left))]
    return [
        (stage, _some(rows, quota, f"{seed}/{name}/{stage.name}"))
        for (stage, rows), quota in zip(left.items(), quotas, strict=True)
    ]


def rows_of_source(source: DataSpec, size: int, seed: int, name: str) -> list[Row]:
    """At most `size` rows of a data set: drawn uniformly, or the first ones of a streamed one.

    Raises:
        DataError: missing or empty data, rows of no format, too many bad rows.
    """
    if source.streaming:
        reader = Reader(source, RICHEST)
        rows = [row for _, row in islice(reader, size)]
        reader.check()
        return rows
    return _some(load_rows(source, RICHEST).rows, size, f"{seed}/{name}/{source.label}")


def _some(rows: list[Row], size: int, seed: str) -> list[Row]:
    if size >= len(rows):
        return rows
    return [rows[number] for number in sorted(random.Random(seed).sample(range(len(rows)), size))]
