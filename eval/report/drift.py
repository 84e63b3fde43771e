"""KL from the base model against what it cost on general text, over the looks of all stages.

The relation holds where nothing anchors a stage; where a hook does, it weakens (`methods.md` P056).
"""

from dataclasses import dataclass

from eval.report.markup import Markup, join, tag
from eval.report.story import Story
from eval.report.svg import Scale, axis_text, drawing, label, line, padded, path, ticks
from eval.report.text import listing, shorten

WIDTH, HEIGHT = 420.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 120.0, 16.0, 40.0
_COLOURS = 4


@dataclass(frozen=True)
class Path:
    """The looks of one stage: (KL in nats per token, rise of general loss in nats per token)."""

    stage: str
    points: tuple[tuple[float, float], ...]
    is_anchored: bool


def paths(story: Story) -> list[Path]:
    """Of every stage that was looked at with both signals."""
    found = []
    for stage in story.stages:
        kl, rise = stage.looks.series("kl"), stage.looks.series("general_loss_rise")
        if kl and rise:
            there = dict(zip(rise.steps, rise.values, strict=True))
            points = [
                (value, there[step])
                for step, value in zip(kl.steps, kl.values, strict=True)
                if step in there
            ]
            if points:
                found.append(Path(stage.name, tuple(points), bool(stage.hooks)))
    return found


def section(story: Story) -> Markup:
    """The drawing and how to read it; nothing where nobody looked."""
    found = paths(story)
    if not found:
        return Markup()
    anchored = [one.stage for one in found if one.is_anchored]
    warning = (
        f" {listing(anchored)} {'has' if len(anchored) == 1 else 'have'} hooks: where a stage is held to "
        f"earlier ones, the KL says less about what is forgotten."
        if anchored
        else ""
    )
    lead = tag(
        "p",
        "Each line is a stage, from its first look to its last: how far it has moved from the base model on "
        "its own prompts, and what that cost on general text, in nats per token." + warning,
        class_="lead",
    )
    title = tag("h2", "Drift against forgetting")
    return tag("section", title, join([lead, tag("div", _draw(found), class_="scroll")]))


def _draw(found: list[Path]) -> Markup:
    across = Scale(*padded([x for one in found for x, _ in one.points]), _LEFT, WIDTH - _RIGHT)
    up = Scale(*padded([0.0, *(y for one in found for _, y in one.points)]), HEIGHT - _BOTTOM, _TOP)
    parts = []
    for tick in ticks(up.low, up.high):
        class_ = "zero" if tick == 0 else "grid"
        parts.append(line(_LEFT, up(tick), WIDTH - _RIGHT, up(tick), class_))
        parts.append(label(axis_text(tick), _LEFT - 6, up(tick) + 3.5, "tick", "end"))
    for tick in ticks(across.low, across.high):
        parts.append(label(axis_text(tick), across(tick), HEIGHT - 24, "tick", "middle"))
    parts.append(
        label("KL from the base model", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 7, "hint", "middle")
    )
    parts.append(label("rise of general loss", _LEFT, 11, "hint"))
    for number, one in enumerate(found):
        places = [(across(x), up(y)) for x, y in one.points]
        class_ = f"series-{number % _COLOURS}"
        parts.append(path(places, f"line {class_}"))
        parts += [tag("circle", cx=x, cy=y, r=2.6, class_=f"dot {class_}") for x, y in places]
        x, y = WIDTH - _RIGHT + 12, _TOP + 12 + 18 * number
        parts.append(line(x, y, x + 14, y, f"line {class_}"))
        parts.append(label(shorten(one.stage, 13, "."), x + 20, y + 4, "hint"))
    told = ", ".join(
        f"{one.stage} from KL {axis_text(one.points[0][0])} to {axis_text(one.points[-1][0])}"
        for one in found
    )
    return drawing(WIDTH, HEIGHT, *parts, label=f"KL against rise of general loss: {told}")
