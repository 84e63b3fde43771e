"""What the chain kept, in the metrics of continual learning: transfer, forgetting, tax, change by group."""

from collections.abc import Sequence

from eval.by_group import GroupChange
from eval.continual import SHARE, Continual
from eval.report.markup import Markup, join, tag
from eval.report.story import Story
from eval.report.text import number, signed
from eval.resample import Estimate

HEADS = ("metric", "value", "95 % interval", "of")
GROUP_HEADS = ("group", "relative, %", "95 % interval", "absolute")
_ABOUT = (
    "Above 0 is better, but for tax, forgetting and the worst drop, where it is loss. Probes that name the "
    "stage which teaches them (owner) count for transfer and forgetting; the tax is of those that nobody "
    "teaches. All but the hops is of the stages that led to the last one. Intervals resample items, the "
    "same for all rows."
)


def section(story: Story) -> Markup:
    """Tables of all metrics; nothing where no stage is probed."""
    if not story.continual:
        return Markup()
    parts = [tag("p", _ABOUT, class_="lead"), _table(HEADS, rows(story.continual))]
    if absent := reasons(story.continual):
        parts.append(tag("p", absent.replace("`", ""), class_="lead"))
    parts.append(_table(GROUP_HEADS, group_rows(story.groups)))
    return tag("section", tag("h2", "What the chain kept"), join(parts))


def rows(found: Sequence[Continual]) -> list[list[str]]:
    """A line for each metric of each unit."""
    told = []
    for one in found:
        many = f"{len(one.probes)} probes, {unit(one)}"
        named = [
            ("average accuracy (AA)", one.average),
            ("average incremental accuracy", one.incremental_average),
            ("backward transfer (BWT)", one.backward_transfer),
            ("forward transfer (FWT)", one.forward_transfer),
            ("forgetting", one.forgetting),
            ("retention", one.retention),
        ]
        own = f"{', '.join(one.owned)}; {unit(one)}"
        told += [_row(name, value, own) for name, value in named if value is not None]
        told.append(_row("mean of all probes", one.overall, many))
        told.append(_row(f"worst drop, {one.worst_probe}", one.worst, many))
        told += [
            _row(f"tax from {hop.before} to {hop.after}", hop.tax, f"untaught, {unit(one)}")
            for hop in one.hops
        ]
        if one.total_tax is not None:
            told.append(_row("alignment tax in all", one.total_tax, f"untaught, {unit(one)}"))
    return told


def group_rows(found: Sequence[GroupChange]) -> list[list[str]]:
    """A line for each group: change from base to the last checkpoint."""
    return [
        [
            one.group,
            "-" if one.relative is None else signed(one.relative.value, 1),
            "-"
            if one.relative is None
            else f"{signed(one.relative.low, 1)} to {signed(one.relative.high, 1)}",
            "; ".join(f"{signed(value.value)} {name}" for name, value in one.absolute.items()),
        ]
        for one in found
    ]


def reasons(found: Sequence[Continual]) -> str:
    """Why metrics are not there, each reason once."""
    told: dict[str, list[str]] = {}
    for one in found:
        for name, why in one.absent.items():
            names = told.setdefault(why, [])
            names += [] if name in names else [name.replace("_", " ")]
    return " ".join(f"No {', '.join(dict.fromkeys(names))}: {why}." for why, names in told.items())


def unit(one: Continual) -> str:
    """What the numbers are."""
    return "shares of 1" if one.unit == SHARE else f"{one.unit}, negated"


def _row(name: str, value: Estimate, of: str) -> list[str]:
    return [name, number(value.value), f"{number(value.low)} to {number(value.high)}", of]


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> Markup:
    first, *others = heads
    top = tag(
        "tr",
        tag("th", first, scope="col", class_="text"),
        *(tag("th", head, scope="col") for head in others),
    )
    body = [
        tag("tr", tag("th", line[0], scope="row"), *(tag("td", cell) for cell in line[1:]))
        for line in cells
    ]
    table = tag("table", tag("thead", top), tag("tbody", *body), class_="plain")
    return tag("div", table, class_="scroll")
