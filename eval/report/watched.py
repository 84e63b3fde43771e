"""What happened within a stage: curves of its looks, and the stability gap of each probe."""

from eval.looks import Looks
from eval.report.curves import Chart, draw
from eval.report.markup import Markup, join, tag
from eval.report.series import Series
from eval.report.text import number
from eval.resample import Estimate
from eval.stability import Gap

#: Series of the drift -> titles of their charts.
_DRIFT = {"kl": "KL from the base model", "general_loss": "loss on general text"}
GAP_HEADS = ("probe", "before", "lowest", "at step", "largest fall", "came back", "at step")


def charts(looks: Looks) -> list[Chart]:
    """A chart for each series; those of probes under their names."""
    found = [Chart(title, (one,)) for name, title in _DRIFT.items() if (one := looks.series(name))]
    return found + [Chart(f"{_name(one)} (look)", (one,)) for one in looks.probes]


def section(looks: Looks) -> Markup:
    """The curves and the table; nothing where nobody looked."""
    drawn = [draw(chart) for chart in charts(looks)]
    if not drawn:
        return Markup()
    title = tag(
        "h4", "While it trained", tag("small", f" suite {looks.suite}" if looks.suite else "")
    )
    parts = [title, tag("div", *drawn, class_="curves")]
    if looks.gaps:
        heads = [tag("th", head, scope="col") for head in GAP_HEADS]
        rows = [
            tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))
            for cells in map(gap_cells, looks.gaps)
        ]
        table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="plain")
        parts.append(tag("div", table, class_="scroll"))
    return join(parts)


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


def _estimate(found: Estimate) -> str:
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def _name(series: Series) -> str:
    return series.name.removeprefix("probe/")
