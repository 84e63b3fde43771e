"""Items for choosing and items for reporting: a row restricted to one of them."""

from dataclasses import replace
from typing import Literal

from eval.compare import ratio_stderr, weighted_mean
from eval.matrix import Row, Score

Split = Literal["dev", "test"]


def only(row: Row, split: Split) -> Row:
    """The row over the items of a split; probes without any item of a split keep all of theirs."""
    return Row(row.stage, row.id, {name: _only(score, split) for name, score in row.scores.items()})


def _only(score: Score, split: Split) -> Score:
    items = tuple(item for item in score.items if item.split == split)
    if not items:
        return score
    return replace(score, items=items, value=weighted_mean(items), stderr=ratio_stderr(items))
