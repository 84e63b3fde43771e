"""Items for choosing (dev) and items for reporting (test): which is which, and a row of one of them.

What chooses among models, a greedy soup or the gate's repair, must not be what they are then scored
with: the best of several by chance would look better than it is.
"""

import hashlib
from dataclasses import replace
from typing import Literal, overload

from cpt.errors import ProbeError
from eval.matrix import Row, Score
from eval.means import ratio_stderr, weighted_mean

Split = Literal["dev", "test"]


def split_of(item: str, dev: float, cluster: str = "") -> Literal["dev", "test", ""]:
    """Where an item belongs; "" where there is no split.

    A function of the document alone (of its cluster, if it has one, so that what goes together stays
    together): neither order, limit nor seed changes it, nor in which task or how often it occurs.

    Args:
        item: the item's id, `[<task>/]<hash of the document>[-<number of its repetition>]`.
        dev: expected share of dev items; every item that is dev at a share is dev at a larger one.
    """
    if dev == 0:
        return ""
    key = cluster or item.rpartition("/")[2].partition("-")[0]
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "dev" if draw < dev else "test"


@overload
def only(scored: Row, split: Split) -> Row: ...


@overload
def only(scored: Score, split: Split) -> Score: ...


def only(scored: Row | Score, split: Split) -> Row | Score:
    """A score or a row over the items of one split, value and standard error computed anew.

    Scores without a split stay whole: they have no items for choosing.

    Raises:
        ProbeError: a score has a split, and no items in this one.
    """
    if not isinstance(scored, Row):
        return _only(scored, split)
    scores = {name: _only(score, split) for name, score in scored.scores.items()}
    return replace(scored, scores=scores)


def _only(score: Score, split: Split) -> Score:
    if not any(item.split for item in score.items):
        return score
    items = tuple(item for item in score.items if item.split == split)
    if not items:
        raise ProbeError(
            f"probe {score.probe}: none of its {len(score.items)} items is in the {split} split; "
            f"raise its limit, or change `dev`"
        )
    return replace(score, items=items, value=weighted_mean(items), stderr=ratio_stderr(items))
