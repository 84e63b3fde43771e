"""What happened within a stage: curves of its looks, the stability gap of each probe, min-ACC and WC-ACC."""

from collections.abc import Sequence

from eval.continual import SHARE
from eval.looks import Looks
from eval.report.curves import Chart, draw
from eval.report.markup import Markup, join, tag
from eval.report.series import Series
from eval.report.text import number
from eval.resample import Estimate
from eval.stability import Gap

#: Signals -> titles of their charts.
_SIGNALS = {"kl": "KL from the base model", "general_loss": "loss on general text"}
GAP_HEADS = ("probe", "before", "lowest", "at step", "largest fall", "came back", "at step")
LOWEST_HEADS = ("over all looks", "value", "95 % interval", "of")
ABOUT = (
    "min-ACC is the mean of each probe's lowest score after the stage's first step, over the probes that "
    "the stage does not teach. WC-ACC puts what it teaches (owner) beside them: 1/k of its last score, and "
    "1 - 1/k of min-ACC, k being one more than those probes. Of losses all is negated."
)


def charts(looks: Looks) -> list[Chart]:
    """A chart for each series; those of probes under their names."""
    found = [
        Chart(title, (one,)) for name, title in _SIGNALS.items() if (one := looks.series(name))
    ]
    return found + [Chart(f"{_name(one)} (look)", (one,)) for one in looks.probes]


def section(looks: Looks) -> Markup:
    """The curves and the table; nothing where nobody looked."""
    drawn = [draw(chart) for chart in charts(looks)]
    if not drawn and not looks.unreadable:
        return Markup()
    title = tag(
        "h4", "While it trained", tag("small", f" suite {looks.suite}" if looks.suite else "")
    )
    parts = [title, tag("div", *drawn, class_="curves")]
    if looks.gaps:
        parts.append(_table(GAP_HEADS, list(map(gap_cells, looks.gaps))))
    if looks.lowest:
        parts += [_table(LOWEST_HEADS, lowest_rows(looks)), tag("p", ABOUT, class_="hint")]
    parts += [tag("p", f"Not read: {problem}", class_="hint") for problem in looks.unreadable]
    return join(parts)


def lowest_rows(looks: Looks) -> list[list[str]]:
    """A line for min-ACC and one for WC-ACC of each unit."""
    told = []
    for one in looks.lowest:
        unit = "shares of 1" if one.unit == SHARE else f"{one.unit}, negated"
        old = ", ".join(one.old)
        told.append(["min-ACC", *_cells(one.min_accuracy), f"{old}; {unit}"])
        if one.worst_case is not None:
            of = f"{', '.join(one.own)} and the lowest of {old}; {unit}"
            told.append(["WC-ACC", *_cells(one.worst_case), of])
    return told


def gap_cells(gap: Gap) -> list[str]:
    """One row of the table of stability gaps; of losses the numbers are negated."""
    return [
        gap.probe,
        number(gap.start),
        _estimate(gap.lowest),
        str(gap.lowest_at),
        _estimate(gap.windowed),
        _estimate(gap.recovery),
        "never" if gap.recovered_at is None else str(gap.recovered_at),
    ]


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
    top = tag("tr", *(tag("th", head, scope="col") for head in heads))
    rows = [
        tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))
        for cells in lines
    ]
    table = tag("table", tag("thead", top), tag("tbody", *rows), class_="plain")
    return tag("div", table, class_="scroll")


def _cells(found: Estimate) -> list[str]:
    return [number(found.value), f"{number(found.low)} to {number(found.high)}"]


def _estimate(found: Estimate) -> str:
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def _name(series: Series) -> str:
    return series.name.removeprefix("probe/")
