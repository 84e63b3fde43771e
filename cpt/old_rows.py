"""Rows for batches beside the stage's own: exemplars of earlier stages, or a part of a data set."""

import random
from collections.abc import Sequence
from itertools import islice

from cpt.data import Reader, load_rows
from cpt.data_spec import DataSpec
from cpt.errors import HookError
from cpt.past import PastStage
from cpt.rows import RICHEST, Row


def rows_of_stages(stages: Sequence[PastStage], size: int, seed: int, name: str) -> list[list[Row]]:
    """`size` exemplars in all, the same number of each stage where they have as many; drawn uniformly.

    Args:
        stages: distinct ones.
        size: the first stages have one more where it does not divide.
        seed: decides which.
        name: of the hook, for errors.

    Raises:
        HookError: a stage left none.
    """
    if size < len(stages):
        raise HookError(
            f"{name}: size: {size} rows are fewer than the {len(stages)} stages that they are of"
        )
    found = []
    for number, stage in enumerate(stages):
        rows = stage.rows()
        if not rows:
            raise HookError(
                f"{name}: {stage.name} left no exemplars (the base model has none); name another stage"
            )
        quota = size // len(stages) + (number < size % len(stages))
        found.append(_some(rows, quota, f"{seed}/{name}/{stage.name}"))
    return found


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
