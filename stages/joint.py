"""The rows of a joint stage: those of the stages that it joins, shuffled together; see `cpt/joint.py`."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cpt.joint import Joined
from stages.supply import HELD_OUT, REST, TRAIN, Supply
from stages.tokens_on_disk import Pieces, TokenTable, write_tokens


def joint_supply(
    joined: Sequence[Joined],
    seed: int,
    rows_per_step: int,
    num_exemplars: int,
    make_one: Callable[[Joined, Path], Supply],
    folder: Path,
) -> None:
    """Make the rows of each stage as in the chain without hooks, and write them as one stream.

    Every row is there once; the last step is filled from a second shuffle. Held-out rows are those of the
    stage itself, the last of `joined`.

    Args:
        joined: the stages.
        seed: of the shuffle.
        rows_per_step: of the joint stage.
        num_exemplars: that it leaves at most, drawn from those of the stages that it joins.
        make_one: makes the rows of one stage in a folder.
        folder: where to.

    Raises:
        DataError: no data, bad data, or nothing left after tokenising.
    """
    own = [folder / f"joined-{number}" for number in range(len(joined))]
    parts = []
    for stage, place in zip(joined, own, strict=True):
        place.mkdir()
        parts.append(make_one(stage, place))
    tables = [TokenTable(part.train) for part in parts]
    order = [(source, row) for source, table in enumerate(tables) for row in range(len(table))]
    shuffled = _shuffled(order, random.Random(f"{seed}/joint"))
    num_steps = -(-len(order) // rows_per_step)
    rows: Iterator[Pieces] = (
        tables[source].pieces(row)
        for source, row in (next(shuffled) for _ in range(num_steps * rows_per_step))
    )
    write_tokens(folder / TRAIN, rows, packed=any(table.is_packed for table in tables))
    if (own[-1] / HELD_OUT).is_file():
        os.replace(own[-1] / HELD_OUT, folder / HELD_OUT)
    total = sum(table.num_tokens for table in tables)
    description = [
        {**entry, "stage": stage.name, "share": round(entry["share"] * table.num_tokens / total, 6)}
        for stage, part, table in zip(joined, parts, tables, strict=True)
        for entry in part.description
    ]
    kept = [row for part in parts for row in part.exemplars]
    if len(kept) > num_exemplars:
        kept = random.Random(f"{seed}/exemplars").sample(kept, num_exemplars)
    rest = {
        "num_steps": num_steps,
        "exemplars": kept,
        "description": description,
        "notes": [note for part in parts for note in part.notes],
    }
    (folder / REST).write_text(json.dumps(rest, default=str))
    for place in own:  # what is mapped stays until it is let go
        shutil.rmtree(place)


def _shuffled(
    order: Sequence[tuple[int, int]], generator: random.Random
) -> Iterator[tuple[int, int]]:
    """All places in random order, over and over."""
    while True:
        cycle = list(order)
        generator.shuffle(cycle)
        yield from cycle
