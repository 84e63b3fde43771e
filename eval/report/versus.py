"""This chain beside another, usually its baseline: paths from base, ends, paired difference."""

from eval.change import Change
from eval.report import forest
from eval.report.columns import Probe
from eval.report.heat_map import matrix_table
from eval.report.markup import Markup, breakable, join, tag
from eval.report.story import Comparison, Story
from eval.report.svg import Scale, axis_text, drawing, label, line, padded, path, ticks
from eval.report.text import shorten
from eval.report.words import AGAINST_OTHER, MARKS, difference, unit, value, word

WIDTH, HEIGHT = 262.0, 176.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 42.0, 26.0


def versus(story: Story) -> Markup:
    """Paths of every probe in both chains, and the table of their ends."""
    comparison = story.comparison
    assert comparison is not None
    lead = tag(
        "p",
        "Change from base after every stage, in the units of the probe, with 95 % intervals; up "
        "is better in every chart. The dotted line is the margin. The table compares both chains "
        f"after {comparison.row.stage}, item by item.",
        class_="lead",
    )
    keys = tag(
        "p",
        _key("this"),
        f" {story.name}",
        _key("other"),
        f" {_called(comparison.other)}",
        class_="keys",
    )
    paths = [_paths(story, comparison, probe) for probe in story.probes]
    title = tag("summary", f"Stages \u00d7 probes of {comparison.other.name}")
    matrix = tag("details", title, matrix_table(comparison.other))
    return join([lead, keys, tag("div", *paths, class_="paths"), _table(story, comparison), matrix])


def _called(other: Story) -> str:
    return f"{other.name} (baseline={other.baseline})" if other.baseline else other.name


def _key(class_: str) -> Markup:
    marks = [line(0, 6, 26, 6, "line"), tag("circle", cx=13.0, cy=6.0, r=3.6, class_="point")]
    return drawing(26, 12, tag("g", *marks, class_=class_), label=class_, class_="key")


def _paths(story: Story, comparison: Comparison, probe: Probe) -> Markup:
    """One probe: gain over base per stage, both chains."""
    names = [stage.name for stage in story.stages if stage.row]
    lines = [
        (class_, {stage.name: _of(stage.from_base, probe) for stage in told.stages})
        for class_, told in (("other", comparison.other), ("this", story))
    ]
    ends = [0.0, -probe.margin * probe.scale]
    for _, found in lines:
        for change in found.values():
            if change:
                ends += [change.gain_low * probe.scale, change.gain_high * probe.scale]
    up = Scale(*padded(ends), HEIGHT - _BOTTOM, _TOP)
    across = Scale(0, max(len(names) - 1, 1), _LEFT + 14, WIDTH - _RIGHT - 16)
    parts = [
        label(shorten(probe.name, 30), 2, 14, "title"),
        label(shorten(unit(probe), 40), 2, 29, "hint"),
    ]
    for number in ticks(up.low, up.high):
        parts.append(
            line(_LEFT, up(number), WIDTH - _RIGHT, up(number), "zero" if number == 0 else "grid")
        )
        parts.append(
            label(axis_text(number, sign=True), _LEFT - 6, up(number) + 3.5, "tick", "end")
        )
    margin = up(-probe.margin * probe.scale)
    parts.append(line(_LEFT, margin, WIDTH - _RIGHT, margin, "margin"))
    for index, name in enumerate(names):
        if len(names) <= 6 or index in (0, len(names) - 1):
            parts.append(label(shorten(name, 9, "."), across(index), HEIGHT - 9, "tick", "middle"))
    for class_, found in lines:
        shift = 3.0 if class_ == "other" else -3.0
        parts.append(tag("g", *_path(names, found, probe, across, up, shift), class_=class_))
    return drawing(
        WIDTH, HEIGHT, *parts, label=f"{probe.name}: gain over base by stage", class_="path"
    )


def _path(
    names: list[str],
    found: dict[str, Change | None],
    probe: Probe,
    across: Scale,
    up: Scale,
    shift: float,
) -> list[Markup]:
    points = [(across(0) + shift, up(0))]
    whiskers, dots = [], [tag("circle", cx=points[0][0], cy=points[0][1], r=3.2, class_="point")]
    for index, name in enumerate(names):
        change = found.get(name)
        if change is None:
            continue
        x, y = across(index) + shift, up(change.gain * probe.scale)
        low, high = up(change.gain_low * probe.scale), up(change.gain_high * probe.scale)
        whiskers.append(line(x, low, x, high, "whisker"))
        dots.append(tag("circle", cx=x, cy=y, r=3.2, class_="point"))
        points.append((x, y))
    return [*whiskers, path(points, "line"), *dots]


def _table(story: Story, comparison: Comparison) -> Markup:
    scale = forest.axis(comparison.changes)
    base = story.matrix.rows[0]
    stage = comparison.row.stage
    heads = [
        "probe",
        base.stage,
        f"{comparison.other.name}, {stage}",
        f"{story.name}, {stage}",
        "difference",
    ]
    cells = [
        tag("th", text, scope="col", class_=None if i else "text") for i, text in enumerate(heads)
    ]
    plot = tag(
        "th",
        tag("span", "difference in margins", class_="axis-name"),
        forest.head(scale),
        class_="plot",
    )
    top = tag("tr", *cells, plot, tag("th", "this chain is", class_="text"))
    rows = []
    for probe in story.probes:
        change = _of(comparison.changes, probe)
        if change is None:
            continue
        kind = word(change)
        start = base.scores.get(probe.name)
        scores = [start.value if start else None]
        scores += [row.scores[probe.name].value for row in (comparison.other_row, comparison.row)]
        told = f"{probe.name}: {difference(change.delta, probe)}, {AGAINST_OTHER[kind]}"
        rows.append(
            tag(
                "tr",
                tag(
                    "th",
                    breakable(probe.name),
                    tag("span", unit(probe), class_="unit"),
                    scope="row",
                ),
                *(tag("td", "-" if score is None else value(score, probe)) for score in scores),
                tag(
                    "td",
                    difference(change.delta, probe),
                    Markup(" &plusmn;&thinsp;"),
                    value(change.stderr, probe),
                ),
                tag(
                    "td", forest.row([forest.Bar(change, "from-base")], scale, told), class_="plot"
                ),
                tag(
                    "td", tag("b", MARKS[kind]), f" {AGAINST_OTHER[kind]}", class_=f"verdict {kind}"
                ),
            )
        )
    return tag(
        "div",
        tag("table", tag("thead", top), tag("tbody", *rows), class_="changes"),
        class_="scroll",
    )


def _of(changes: tuple[Change, ...], probe: Probe) -> Change | None:
    return next((change for change in changes if change.probe == probe.name), None)
