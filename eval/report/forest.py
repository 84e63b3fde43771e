"""A stage's changes as a forest plot: one row per probe, gains in margins, 95 % intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.change import Change
from eval.report.markup import Markup, tag
from eval.report.svg import Scale, axis_text, drawing, label, line, ticks
from eval.report.words import word

WIDTH, HEIGHT, EDGE = 300.0, 34.0, 12.0
_LIMIT = 32.0
_HEAD = 30.0


@dataclass(frozen=True)
class Bar:
    """One change to draw, and the class that says whose it is."""

    change: Change
    class_: str


def in_margins(change: Change) -> tuple[float, float, float]:
    """Low end, middle and high end of the gain's 95 % interval, in margins.

    Without a margin the unit is the standard error.
    """
    size = change.margin or change.stderr or 1.0
    return change.gain_low / size, change.gain / size, change.gain_high / size


def axis(changes: Iterable[Change]) -> Scale:
    """One scale for all changes, so that plots compare; ends beyond 32 margins become arrows."""
    ends = [end for change in changes for end in in_margins(change)]
    low, high = min([-2.5, *ends]), max([2.5, *ends])
    return Scale(max(low, -_LIMIT), min(high, _LIMIT), EDGE, WIDTH - EDGE)


def head(scale: Scale) -> Markup:
    """Ticks above the rows."""
    marks = [_tick(scale, number) for number in ticks(scale.low, scale.high, 4)]
    left = label("worse", EDGE, 11, "hint")
    right = label("better", WIDTH - EDGE, 11, "hint", "end")
    return drawing(WIDTH, _HEAD, left, right, *marks, label="gain in margins", class_="forest")


def row(bars: Sequence[Bar], scale: Scale, about: str) -> Markup:
    """Intervals of one probe, one below the other, over lines for no change and for the margin."""
    zero, margin = scale(0), scale(-1)
    parts = [
        tag(
            "rect", x=scale.start, y=0.0, width=margin - scale.start, height=HEIGHT, class_="beyond"
        ),
        line(zero, 0, zero, HEIGHT, "zero"),
        line(margin, 0, margin, HEIGHT, "margin"),
    ]
    for index, bar in enumerate(bars):
        parts += _bar(bar, scale, HEIGHT * (index + 1) / (len(bars) + 1))
    return drawing(WIDTH, HEIGHT, *parts, label=about, class_="forest")


def _bar(bar: Bar, scale: Scale, y: float) -> list[Markup]:
    low, middle, high = in_margins(bar.change)
    parts = [line(scale.clamped(low), y, scale.clamped(high), y, "whisker")]
    if low < scale.low:
        parts.append(_arrow(scale.start, y, -1))
    if high > scale.high:
        parts.append(_arrow(scale.end, y, 1))
    if scale.low <= middle <= scale.high:
        parts.append(tag("circle", cx=scale(middle), cy=y, r=4.5, class_="point"))
    return [tag("g", *parts, class_=f"{bar.class_} {word(bar.change)}")]


def _arrow(x: float, y: float, direction: int) -> Markup:
    tip = x + 6 * direction
    return tag(
        "path", d=f"M{x:.1f} {y - 4:.1f}L{tip:.1f} {y:.1f}L{x:.1f} {y + 4:.1f}Z", class_="arrow"
    )


def _tick(scale: Scale, number: float) -> Markup:
    return label(axis_text(number, sign=True), scale(number), _HEAD - 3, "tick", "middle")
