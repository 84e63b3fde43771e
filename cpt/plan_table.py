"""A plan as people read it: which hook acts where, what is done, what is left."""

from collections.abc import Callable
from pathlib import Path

from cpt import estimate_text
from cpt.estimate import Estimate
from cpt.hooks.base import points
from cpt.plan import Plan
from cpt.store import Store

COLUMNS = {
    "data": ("mix",),
    "model": ("adapt",),
    "loss": ("penalty",),
    "gradient": ("pull", "project"),
    "weights": ("track", "merge"),
}


def table_of(
    plan: Plan,
    store: Store,
    probed: Callable[[str], bool] | None,
    num_probes: int,
    backend: str,
    estimate: Estimate | None = None,
) -> str:
    """The plan as people read it; with an estimate, what each stage and the whole chain need."""
    needs = estimate_text.columns(estimate) if estimate else {}
    rows = [["", "stage", "id", *COLUMNS, *needs, "status"]]
    number = -1
    for node in plan.nodes:
        number += not node.stands_for
        acting = [
            " ".join(key for key, hook in node.hooks if set(points(hook)) & set(where))
            for where in COLUMNS.values()
        ]
        if node.spec and node.spec.merge:
            acting[[*COLUMNS].index("weights")] = node.spec.merge.name
        status = store.status(node.id)
        if status.startswith("done") and probed is not None:
            status += ", probed" if probed(node.id) else ", not probed"
        needed = [cells[node.name] for cells in needs.values()]
        rows.append([str(number), node.name, node.id, *acting, *needed, status])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    stages = number
    probes = f", {len(plan.nodes)} x {num_probes} probes" if num_probes else ""
    place = _short(store.chain(plan.name))
    head = f"chain {plan.name}   seed {plan.recipe.seed}   {stages} stages{probes}   {backend}   {place}"
    lines += _open(plan)
    lines += estimate_text.lines(estimate) if estimate else []
    return "\n".join([head, *lines, *(f"warning: {warning}" for warning in plan.warnings)])


def _open(plan: Plan) -> list[str]:
    """Which ids depend on verdicts that are not known yet."""
    later = [node.name for node in plan.nodes]
    later = later[later.index(plan.awaits[0]) + 1 :] if plan.awaits else []
    if not later:
        return []
    first = plan.awaits[0]
    return [
        f"ids of {', '.join(later)}: if the gate passes {first}; what it makes has others follow"
    ]


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
