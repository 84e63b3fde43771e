"""Items that a stage turned from right to wrong or from wrong to right: numbers in words."""

from dataclasses import dataclass
from itertools import chain, zip_longest

from eval.matrix import Row, Score


@dataclass(frozen=True)
class Flip:
    """One item that was right before and wrong after, or the other way round."""

    probe: str
    question: str
    answer_before: str
    answer_after: str


@dataclass(frozen=True)
class Flips:
    """All flips between two rows; only of probes whose items are right (1) or wrong (0)."""

    lost: tuple[Flip, ...]
    won: tuple[Flip, ...]


def flips(before: Row, after: Row) -> Flips:
    """Flips of every probe both rows have, dealt in turn so that the first few show them all."""
    lost: list[list[Flip]] = []
    won: list[list[Flip]] = []
    for probe, old in before.scores.items():
        new = after.scores.get(probe)
        if new and not new.is_drift and _is_binary(old) and _is_binary(new):
            for hands, better in ((lost, False), (won, True)):
                hands.append(_flips(probe, old, new, better == new.higher_is_better))
    return Flips(_deal(lost), _deal(won))


def _flips(probe: str, old: Score, new: Score, upwards: bool) -> list[Flip]:
    later = {item.id: item for item in new.items}
    start, end = (0.0, 1.0) if upwards else (1.0, 0.0)
    return [
        Flip(probe, item.text, item.answer, later[item.id].answer)
        for item in old.items
        if item.id in later and item.value == start and later[item.id].value == end
    ]


def _deal(hands: list[list[Flip]]) -> tuple[Flip, ...]:
    return tuple(flip for flip in chain.from_iterable(zip_longest(*hands)) if flip is not None)


def _is_binary(score: Score) -> bool:
    return all(item.value in (0.0, 1.0) for item in score.items)
