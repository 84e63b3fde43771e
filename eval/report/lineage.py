"""The chain as a drawing: boxes for stages with ids and hooks, arrows for `from`, `reference`."""

from cpt.actions import REMEDIES
from eval.report.markup import Markup, tag
from eval.report.story import Stage, Story
from eval.report.svg import drawing, label
from eval.report.text import shorten

BOX, GAP, HEIGHT = 164.0, 50.0, 76.0
_ARC = 22.0


def lineage(story: Story) -> Markup:
    """Stages from left to right as in the recipe; long edges pass above, references below."""
    places = {
        key: index for index, stage in enumerate(story.stages) for key in (stage.name, stage.id)
    }
    above = below = 0
    edges: list[Markup] = []
    for index, stage in enumerate(story.stages):
        for parent in stage.parents:
            span = index - places.get(parent, index - 1)
            above = max(above, span - 1)
        if stage.reference in places:
            below = max(below, index - places[stage.reference], 1)
    top = 8 + _ARC * above
    for index, stage in enumerate(story.stages):
        edges += [
            _edge(places[parent], index, top, "from")
            for parent in stage.parents
            if parent in places
        ]
        if stage.reference in places and places[stage.reference] != index:
            edges.append(_edge(places[stage.reference], index, top, "reference"))
    boxes = [_box(stage, index, top) for index, stage in enumerate(story.stages)]
    width = len(boxes) * (BOX + GAP) - GAP + 4
    height = top + HEIGHT + 8 + (_ARC * below + 12 if below else 0)
    graph = drawing(
        width,
        height,
        *edges,
        *boxes,
        label="lineage: " + ", ".join(_told(stage) for stage in story.stages),
        class_="lineage",
        style=f"min-width:{0.72 * width:.0f}px",
    )
    return tag("div", graph, class_="scroll")


def _box(stage: Stage, index: int, top: float) -> Markup:
    left = 2 + index * (BOX + GAP)
    kind = "" if stage.kind in (stage.name, *REMEDIES) else f" ({stage.kind})"
    others = {"base": "row 0 of the matrix"} | dict.fromkeys(REMEDIES, "made by the gate")
    hooks = ", ".join(stage.hooks) or others.get(stage.kind, "no hooks")
    return tag(
        "g",
        tag("title", _told(stage)),
        tag("rect", x=left, y=top, width=BOX, height=HEIGHT, rx=9.0, class_="box"),
        label(shorten(f"{stage.name}{kind}", 19), left + 13, top + 24, "name"),
        label(shorten(stage.id, 24), left + 13, top + 43, "id"),
        label(shorten(hooks, 25), left + 13, top + 62, "hooks" if stage.hooks else "hint"),
        class_=stage.status.replace(" ", "-"),
    )


def _edge(start: int, end: int, top: float, kind: str) -> Markup:
    """An arrow: straight to the next box, an arc above over others, `reference` dashed below."""
    right, left = 2 + start * (BOX + GAP) + BOX, 2 + end * (BOX + GAP)
    if kind == "from" and end - start == 1:
        y = top + HEIGHT / 2
        return tag(
            "g",
            _curve(f"M{right:.1f} {y:.1f}H{left - 8:.1f}", kind),
            _head(left - 1, y, 1, 0, kind),
        )
    from_x, to_x = right - 34, left + 34
    sign, edge = (-1, top) if kind == "from" else (1, top + HEIGHT)
    depth = edge + sign * _ARC * (end - start if kind == "reference" else end - start - 1) * 1.15
    bend = f"{from_x:.1f} {depth:.1f} {to_x:.1f} {depth:.1f}"
    d = f"M{from_x:.1f} {edge:.1f}C{bend} {to_x:.1f} {edge + sign * 8:.1f}"
    parts = [_curve(d, kind), _head(to_x, edge + sign, 0, -sign, kind)]
    if kind == "reference":
        # Beside the head: a stage has one reference, so labels never meet.
        parts.append(label("reference", to_x + 8, edge + 18, "hint"))
    return tag("g", *parts)


def _curve(d: str, kind: str) -> Markup:
    return tag("path", d=d, class_=f"edge {kind}")


def _head(x: float, y: float, dx: int, dy: int, kind: str) -> Markup:
    """An arrow head whose tip is at (x, y), pointing along (dx, dy)."""
    back_x, back_y = x - 8 * dx, y - 8 * dy
    left, right = (back_x + 4 * dy, back_y + 4 * dx), (back_x - 4 * dy, back_y - 4 * dx)
    corners = " ".join(f"{px:.1f},{py:.1f}" for px, py in ((x, y), left, right))
    return tag("polygon", points=corners, class_=f"head {kind}")


def _told(stage: Stage) -> str:
    parts = [f"{stage.name} ({stage.id})"]
    parts += [f"from {' and '.join(stage.parents)}"] if stage.parents else []
    parts += [f"reference {stage.reference}"] if stage.reference else []
    parts += [f"hooks {', '.join(stage.hooks)}"] if stage.hooks else []
    return " ".join([*parts, f"- {stage.status}"])
