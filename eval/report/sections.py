"""What the page tells of one stage: changes, the gate, curves, facts, examples that flipped."""

from collections.abc import Sequence

from eval.change import Change
from eval.matrix import Row
from eval.report import curves, forest, watched
from eval.report.columns import Probe
from eval.report.examples import examples
from eval.report.facts import facts
from eval.report.markup import Markup, breakable, tag
from eval.report.story import Stage, Story
from eval.report.svg import Scale
from eval.report.words import MARKS, difference, drifts, unit, value, word

_PM = Markup("&plusmn;&thinsp;")


def stage_section(story: Story, stage: Stage, scale: Scale) -> Markup:
    """One stage, with as much as it has got."""
    title = tag("h3", stage.name, " ", tag("code", stage.id), _pill(stage))
    parts = [title]
    if stage.from_base:
        parts += [_changes(story, stage, scale), _messages(stage)]
    if told := drifts(story, stage):
        parts.append(tag("p", told, class_="hint"))
    drawn = [curves.draw(chart) for chart in curves.charts(stage.series)]
    if drawn:
        parts.append(tag("div", *drawn, class_="curves"))
    parts += [watched.section(stage.looks), _facts(stage)]
    if stage.row and stage.predecessor:
        summary = f"Examples that flipped between {stage.predecessor.stage} and {stage.name}"
        parts.append(examples(stage.flips, stage.predecessor, stage.row, summary))
    return tag("section", *parts, class_="stage-section")


def _pill(stage: Stage) -> Markup:
    if stage.verdict:
        return pill(stage.verdict.action)
    return tag(
        "span",
        {"to do": "to do", "unfinished": "in training"}.get(stage.status, ""),
        class_="pill quiet",
    )


def pill(action: str) -> Markup:
    """The gate's word in a coloured pill."""
    says = {"pass": "passes", "warn": "warns", "stop": "stops"}
    says |= {"rollback": "rolls back", "repair": "repairs"}
    return tag("span", f"gate {says[action]}", class_=f"pill {action}")


def _changes(story: Story, stage: Stage, scale: Scale) -> Markup:
    assert stage.row is not None
    start = story.matrix.rows[0].stage
    step_from = (
        stage.predecessor if stage.predecessor and stage.predecessor.stage != start else None
    )
    steps = {change.probe: change for change in stage.from_predecessor} if step_from else {}
    heads = ["probe", start, stage.name, f"from {start}"]
    cells = [
        tag("th", text, scope="col", class_=None if index else "text")
        for index, text in enumerate(heads)
    ]
    axis_name = tag("span", "gain in margins", class_="axis-name")
    cells.append(tag("th", axis_name, forest.head(scale), class_="plot"))
    cells.append(tag("th", f"against {start}", class_="text"))
    if step_from:
        cells.append(
            tag("th", tag("span", class_="thin-key"), f"from {step_from.stage}", class_="light")
        )
    rows = [
        _change(
            story.probe(change.probe),
            change,
            steps.get(change.probe),
            stage.row,
            scale,
            bool(step_from),
        )
        for change in _in_order(story, stage.from_base)
    ]
    head, body = tag("thead", tag("tr", *cells)), tag("tbody", *rows)
    return tag("div", tag("table", head, body, class_="changes"), class_="scroll")


def _change(
    probe: Probe, change: Change, step: Change | None, row: Row, scale: Scale, with_step: bool
) -> Markup:
    kind, after = word(change), row.scores[change.probe].value
    bars = [forest.Bar(change, "from-base")] + (
        [forest.Bar(step, "from-predecessor")] if step else []
    )
    told = f"{probe.name}: {difference(change.delta, probe)}, {kind}"
    tell = f" (detects {value(change.detectable, probe)})"
    cells = [
        tag("th", breakable(probe.name), tag("span", unit(probe), class_="unit"), scope="row"),
        tag("td", value(after - change.delta, probe)),
        tag("td", value(after, probe)),
        tag("td", difference(change.delta, probe), " ", _PM, value(change.stderr, probe)),
        tag("td", forest.row(bars, scale, told), class_="plot"),
        tag("td", tag("b", MARKS[kind]), f" {kind}", tag("small", tell), class_=f"verdict {kind}"),
    ]
    if with_step:
        text = [difference(step.delta, probe), " ", _PM, value(step.stderr, probe)] if step else []
        mark = f" {MARKS[word(step)]}" if step else ""
        cells.append(tag("td", *text, mark, class_="light"))
    return tag("tr", *cells)


def _in_order(story: Story, changes: Sequence[Change]) -> list[Change]:
    order = [probe.name for probe in story.probes]
    return sorted(changes, key=lambda change: order.index(change.probe))


def _messages(stage: Stage) -> Markup:
    if not stage.verdict or not stage.verdict.messages:
        return Markup()
    lines = tag("ul", *(tag("li", message) for message in stage.verdict.messages))
    loud = stage.verdict.action != "pass"
    return tag("details", tag("summary", "What the gate says, probe by probe"), lines, open=loud)


def _facts(stage: Stage) -> Markup:
    """Where it came from, which data and hooks went in, and what the stage warned about."""
    told = [
        tag("div", tag("dt", name), *(tag("dd", line) for line in lines))
        for name, lines in facts(stage)
    ]
    return tag("dl", *told, class_="facts")
