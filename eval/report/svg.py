"""Small parts that all drawings share: a linear scale, round ticks, lines and labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.markup import Markup, tag
from eval.report.text import compact


@dataclass(frozen=True)
class Scale:
    """A linear map from data (`low` to `high`) to pixels (`start` to `end`)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, number: float) -> float:
        """The pixel of a number; outside of the data it lies outside of the pixels."""
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)

    def clamped(self, number: float) -> float:
        """The pixel of a number, at the nearer end when it lies outside."""
        return self(min(max(number, self.low), self.high))


def ticks(low: float, high: float, least: int = 3) -> list[float]:
    """Round numbers in `low` to `high`, in the widest step of 1, 2 or 5 that gives `least`."""
    power = 10.0 ** math.ceil(math.log10(high - low))
    while True:
        for step in (power, power / 2, power / 5):
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 >= least:
                return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
        power /= 10


def axis_text(number: float, sign: bool = False) -> str:
    """A tick's number with a true minus, and a plus where gains are shown."""
    return f"{'+' if sign and number > 0 else ''}{compact(number)}".replace("-", "\u2212")


def padded(numbers: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """The range of the numbers with some air; never empty, so that a flat curve can be drawn."""
    low, high = min(numbers), max(numbers)
    air = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - air, high + air


def drawing(
    width: float, height: float, *children: str, label: str, **attributes: object
) -> Markup:
    """An inline SVG with a text for those who do not see it."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="img",
        aria_label=label,
        **attributes,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str, **attributes: object) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_, **attributes)


def label(text: str, x: float, y: float, class_: str = "", anchor: str = "start") -> Markup:
    """A text whose baseline is at y."""
    return tag("text", text, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points."""
    if not points:
        return Markup()
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{steps}", class_=class_)
