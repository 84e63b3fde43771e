"""A few items that a change turned right and a few that it turned wrong, side by side."""

from collections.abc import Sequence

from eval.matrix import Row
from eval.report.flips import Flip, Flips
from eval.report.markup import Markup, tag
from eval.report.text import shorten
from eval.report.words import MARKS, Word

_MOST = 4


def examples(found: Flips, before: Row, after: Row, summary: str, is_open: bool = False) -> Markup:
    """Both kinds of flips under a summary that can be folded; nothing where no item flipped."""
    if not found.lost and not found.won:
        return Markup()
    won = _side("improved", f"{len(found.won)} wrong to right", found.won, before, after)
    lost = _side("regressed", f"{len(found.lost)} right to wrong", found.lost, before, after)
    counts = f" ({len(found.won)} to right, {len(found.lost)} to wrong)"
    sides = tag("div", won, lost, class_="flips")
    return tag("details", tag("summary", summary, counts), sides, open=is_open)


def _side(kind: Word, title: str, some: Sequence[Flip], before: Row, after: Row) -> Markup:
    cards = [_card(flip, before.stage, after.stage) for flip in some[:_MOST]]
    more = len(some) - len(cards)
    rest = [tag("p", f"and {more} more", class_="hint")] if more > 0 else []
    heading = tag("h4", tag("b", MARKS[kind]), f" {title}")
    return tag("div", heading, *cards, *rest, class_=kind)


def _card(flip: Flip, before: str, after: str) -> Markup:
    answers = [
        tag("p", tag("span", stage, class_="who"), shorten(answer, 160) or tag("i", "no text kept"))
        for stage, answer in ((before, flip.answer_before), (after, flip.answer_after))
    ]
    question = tag("p", shorten(flip.question, 220), class_="question")
    return tag("div", tag("span", flip.probe, class_="unit"), question, *answers, class_="flip")
