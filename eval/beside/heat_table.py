"""The tables of the page: probes x models as a heat map, then each model's differences."""

from eval.beside.judging import WinRate, summary
from eval.beside.story import Story, preference
from eval.beside.table import Column, Table
from eval.change import Change
from eval.report import forest
from eval.report.columns import Probe
from eval.report.examples import examples
from eval.report.flips import flips
from eval.report.heat_map import heat
from eval.report.markup import Markup, breakable, tag
from eval.report.svg import Scale
from eval.report.text import number, shorten, signed
from eval.report.words import MARKS, MEANINGS, difference, unit, value, word

_PM = Markup("&plusmn;&thinsp;")


def heat_table(story: Story, table: Table) -> Markup:
    """Probes down, models across; colour is the change from the reference that is certain."""
    heads = [
        tag("th", tag("span", breakable(column.label), class_="stage"), scope="col")
        for column in table.columns
    ]
    rows = [
        tag(
            "tr",
            tag("th", breakable(probe.name), tag("span", unit(probe), class_="unit"), scope="row"),
            *(_cell(column, probe) for column in table.columns),
            _detectable(table, probe),
        )
        for probe in table.probes
    ]
    if story.verdicts:
        name = tag("th", "judge prefers", tag("span", "win rate, %", class_="unit"), scope="row")
        cells = [_rate_cell(story.rate(label)) for label in story.labels]
        rows.append(tag("tr", name, *cells, tag("td", class_="missing")))
    top = tag("tr", tag("td"), *heads, tag("th", "MDE", scope="col"))
    grid = tag("table", tag("thead", top), tag("tbody", *rows), class_="matrix beside")
    title = tag("h2", f"Probes \u00d7 models, suite {table.suite}-{table.suite_hash}")
    return tag("section", title, tag("div", grid, class_="scroll"), _legend(story, table))


def _detectable(table: Table, probe: Probe) -> Markup:
    found = table.detectable(probe.name)
    return tag("td", "" if found is None else value(found, probe), class_="missing")


def _cell(column: Column, probe: Probe) -> Markup:
    score, change = column.row.scores.get(probe.name), column.changes.get(probe.name)
    if score is None:
        return tag("td", "-", class_="missing")
    error = tag("span", _PM, value(score.stderr, probe), class_="error")
    if change is None:
        return tag("td", tag("span", value(score.value, probe), class_="value"), error)
    kind, level = word(change), heat(change)
    mark = tag("span", MARKS[kind], class_="mark")
    low, high = (difference(end, probe) for end in (change.low, change.high))
    told = tag("span", f"{difference(change.delta, probe)} ({low} to {high})", class_="change")
    side = "rise" if level > 0 else "fall" if level < 0 else ""
    title = f"{probe.name}: {column.label} {kind}; p after Holm {change.p_holm:.3g}; {change.num_items} items"
    return tag(
        "td",
        tag("span", value(score.value, probe), mark, class_="value"),
        error,
        told,
        class_=f"{kind} {side}".rstrip(),
        style=f"--heat:{abs(level):.2f}" if level else None,
        title=title,
    )


def _rate_cell(rate: WinRate | None) -> Markup:
    if rate is None:
        return tag("td", "-", class_="missing")
    kind = preference(rate)
    mark = tag("span", MARKS[kind], class_="mark")
    low, high = (signed(100 * (end - 0.5), 1) for end in (rate.low, rate.high))
    told = f"{signed(100 * (rate.rate - 0.5), 1)} ({low} to {high})"
    return tag(
        "td",
        tag("span", number(100 * rate.rate, 1), mark, class_="value"),
        tag("span", _PM, number(100 * rate.stderr, 1), class_="error"),
        tag("span", told, class_="change"),
        class_=kind,
        title=summary(rate),
    )


def _legend(story: Story, table: Table) -> Markup:
    marks = [
        tag("span", tag("b", MARKS[kind]), f" {meaning}") for kind, meaning in MEANINGS.items()
    ]
    text = (
        f"\u00b1 is one standard error of the score; below it stands the difference to "
        f"{table.reference.stage} with its paired 95 % interval. Regressed and improved are each "
        f"corrected after Holm over all {table.num_tests} differences; held says that this interval lies "
        f"within the margin. Colour is the part of the change that is certain, in "
        f"margins. MDE is the smallest fall beyond the margin that these items show in 4 of 5 cases, "
        f"the largest of the models. "
    )
    if story.verdicts:
        text += (
            "The judge's win rate counts ties as half, is told against 50, has an interval of its own "
            "and takes no part in the correction. "
        )
    return tag(
        "div", tag("div", *marks, class_="keys"), tag("p", text, class_="hint"), class_="legend"
    )


def differences(table: Table) -> list[Markup]:
    """One section a model: a forest plot, and items that flipped."""
    scale = forest.axis([c for column in table.columns for c in column.changes.values()])
    return [_section(table, column, scale) for column in table.columns if column.changes]


def _section(table: Table, column: Column, scale: Scale) -> Markup:
    start = table.reference
    heads = ["probe", shorten(start.stage, 24), shorten(column.label, 24), "difference"]
    cells = [
        tag("th", text, scope="col", class_=None if index else "text")
        for index, text in enumerate(heads)
    ]
    axis = tag("span", "gain in margins", class_="axis-name")
    cells.append(tag("th", axis, forest.head(scale), class_="plot"))
    cells += [tag("th", "verdict", class_="text"), tag("th", "p, Holm"), tag("th", "MDE")]
    rows = [
        _difference(table, column, column.changes[probe.name], probe, scale)
        for probe in table.probes
        if probe.name in column.changes
    ]
    grid = tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *rows), class_="changes")
    summary = f"Items that flip from {start.stage} to {column.label}"
    flipped = examples(flips(start, column.row), start, column.row, summary)
    title = tag("h2", f"{column.label} against {start.stage}")
    return tag("section", title, tag("div", grid, class_="scroll"), flipped)


def _difference(table: Table, column: Column, change: Change, probe: Probe, scale: Scale) -> Markup:
    kind = word(change)
    told = f"{probe.name}: {difference(change.delta, probe)}, {kind}"
    bar = forest.row([forest.Bar(change, "from-base")], scale, told)
    scores = (table.reference.scores[probe.name], column.row.scores[probe.name])
    name = tag("th", breakable(probe.name), tag("span", unit(probe), class_="unit"), scope="row")
    return tag(
        "tr",
        name,
        *(tag("td", value(score.value, probe)) for score in scores),
        tag("td", difference(change.delta, probe), " ", _PM, value(change.stderr, probe)),
        tag("td", bar, class_="plot"),
        tag("td", tag("b", MARKS[kind]), f" {kind}", class_=f"verdict {kind}"),
        tag("td", f"{change.p_holm:.3g}"),
        tag("td", value(change.detectable, probe)),
    )
