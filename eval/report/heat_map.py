"""The matrix as a heat map: stages down, probes across, colour is the change that is certain."""

import math
from itertools import groupby

from eval.change import Change
from eval.report.columns import Probe
from eval.report.markup import Markup, breakable, join, tag
from eval.report.story import Stage, Story
from eval.report.words import MARKS, MEANINGS, difference, interval, unit, value, word

# Margins at which a colour is full; a fall of one margin has a third of it.
FULL = 8.0


def heat(change: Change) -> float:
    """Colour of a change from -1 (full loss) to 1 (full gain).

    It shows the end of the gain's 95 % interval that is nearer to zero, in margins, as a square
    root so that one margin is seen beside ten. A change whose interval holds zero has no colour.
    Without a margin the unit is the standard error.
    """
    certain = max(change.gain_low, -change.gain_high)
    if certain <= 0:
        return 0.0
    size = math.sqrt(min(1.0, certain / ((change.margin or change.stderr or certain) * FULL)))
    return math.copysign(size, change.gain)


def heat_map(story: Story) -> Markup:
    """The table with its legend; rows of stages that are not probed yet say so."""
    return join([matrix_table(story), _legend()])


def matrix_table(story: Story) -> Markup:
    """The table alone."""
    body = [_row(story, stage) for stage in story.stages]
    grid = tag("table", tag("thead", *_head(story)), tag("tbody", *body), class_="matrix")
    return tag("div", grid, class_="scroll")


def _head(story: Story) -> list[Markup]:
    groups = [
        tag("th", name, colspan=str(len(list(probes))), scope="colgroup", class_="group")
        for name, probes in groupby(story.probes, key=lambda probe: probe.group)
    ]
    names = [
        tag(
            "th",
            tag("span", breakable(probe.name), class_="probe"),
            tag("span", unit(probe), class_="unit"),
            scope="col",
            title=f"{probe.num_items} items, margin {value(probe.margin, probe)}",
        )
        for probe in story.probes
    ]
    return [tag("tr", tag("td"), *groups), tag("tr", tag("td"), *names)]


def _row(story: Story, stage: Stage) -> Markup:
    head = tag("th", tag("span", stage.name, class_="stage"), scope="row")
    if stage.row is None:
        note = {"trained": "not probed yet", "unfinished": "in training"}.get(
            stage.status, stage.status
        )
        cells = [tag("td", note, colspan=str(max(1, len(story.probes))), class_="missing")]
    else:
        found = {change.probe: change for change in stage.from_base}
        cells = [_cell(stage, probe, found.get(probe.name)) for probe in story.probes]
    return tag("tr", head, *cells)


def _cell(stage: Stage, probe: Probe, change: Change | None) -> Markup:
    score = stage.row.scores.get(probe.name) if stage.row else None
    if score is None:
        return tag("td", "-", class_="missing")
    class_ = style = title = mark = None
    if change:
        class_ = f"{word(change)} {_side(heat(change))}".rstrip()
        style = f"--heat:{abs(heat(change)):.2f}" if heat(change) else None
        mark = tag("span", MARKS[word(change)], class_="mark")
        title = (
            f"{probe.name} after {stage.name}: {word(change)}; "
            f"{difference(change.delta, probe)} from {change.before}, "
            f"95 % interval {interval(change, probe)}, {change.num_items} items"
        )
    number = tag("span", value(score.value, probe), mark or "", class_="value")
    error = tag("span", Markup("&plusmn;&thinsp;"), value(score.stderr, probe), class_="error")
    return tag("td", number, error, class_=class_, style=style, title=title)


def _side(level: float) -> str:
    return "rise" if level > 0 else "fall" if level < 0 else ""


def _legend() -> Markup:
    swatches = [
        tag("i", class_=_side(level) or None, style=f"--heat:{math.sqrt(abs(level) / FULL):.2f}")
        for level in (-FULL, -4, -1, 0, 1, 4, FULL)
    ]
    bar = tag(
        "span", "8 margins worse", tag("span", *swatches, class_="swatches"), "8 or more better"
    )
    marks = [
        tag("span", tag("b", MARKS[kind]), f" {meaning}") for kind, meaning in MEANINGS.items()
    ]
    note = tag(
        "p",
        Markup("&plusmn; is one standard error of the score. "),
        "Colour is the change from base that is certain: the end of the paired 95 % interval "
        "nearer to zero, in margins. No colour: there may be no change.",
    )
    return tag("div", tag("div", bar, *marks, class_="keys"), note, class_="legend")
