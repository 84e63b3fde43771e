"""What the tables of `tests.bench.methods` must show: the targets, judged on the means of all seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: A row of a table: intervals (mean, half width) by column.
Row = Mapping[str, Any]
#: (a row, all rows of its table by method) -> whether it is as it must be; None where that cannot be told.
Judge = Callable[[Row, Mapping[str, Row]], bool | None]


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        words: what must hold.
        methods: the rows that are judged; one that holds is enough.
        judge: of one row.
    """

    words: str
    methods: Sequence[str]
    judge: Judge


def recovers(share: float) -> Judge:
    """(old - naive's) / (joint's - naive's) is at least `share`: `methods.md` 4.1."""

    def judge(row: Row, rows: Mapping[str, Row]) -> bool | None:
        if not {"naive", "joint"} <= rows.keys():
            return None
        naive, joint = rows["naive"]["old"][0], rows["joint"]["old"][0]
        return bool(row["old"][0] - naive >= share * (joint - naive))

    return judge


def keeps_general(share: float, task: float) -> Judge:
    """The loss on general text rises by at most 1 - share of what it does without; task accuracy >= task."""

    def judge(row: Row, rows: Mapping[str, Row]) -> bool | None:
        if "naive" not in rows:
            return None
        bound = (1 - share) * rows["naive"]["general"][0]
        return bool(row["general"][0] <= bound and row["task"][0] >= task)

    return judge


def is_as_naive(column: str) -> Judge:
    """A negative control: the 95 % interval of its difference to naive training, paired by seed, holds 0.

    One seed has no interval. That the mean lies within naive training's own interval is no test: it leaves
    out how far the control itself varies.
    """

    def judge(row: Row, rows: Mapping[str, Row]) -> bool | None:
        if "naive" not in rows or not rows["naive"][column][1]:
            return None
        mean, half = row[f"{column}_over_naive"]
        return bool(abs(mean) <= half)

    return judge


def keeps_the_first() -> Judge:
    """The first task is kept as well as the second, to 0.15: no buffer starves the oldest (A36)."""

    def judge(row: Row, rows: Mapping[str, Row]) -> bool | None:
        first, old = row["first"][0], row["old"][0]
        return bool(first >= 2 * old - first - 0.15)

    return judge


_CONTROLS = (
    "learning rate x 0.2",
    "si 1",
    "freeze bottom block",
    "lora 16, continued",
    "interpolate 0.7",
    "ema 0.99",
)

TARGETS: dict[str, list[Target]] = {
    "ta": [
        Target("replay 0.2 of all items recovers 80 %", ["replay 0.2, all items"], recovers(0.8)),
        Target("distillation on old prompts recovers 95 %", ["lwf on old prompts"], recovers(0.95)),
        Target(
            "48 items are shared out fairly", ["replay 0.2, 48 items in all"], keeps_the_first()
        ),
        *(
            Target(f"negative control: {method} keeps what naive training keeps", [method], judge)
            for method in _CONTROLS
            for judge in [is_as_naive("old")]
        ),
    ],
    "tb": [
        Target(
            "ewc with a Fisher of general text keeps 90 % of the general loss at task accuracy 0.95",
            [f"ewc {strength}, general text" for strength in ("0.1", "1", "10")],
            keeps_general(0.9, 0.95),
        ),
    ],
}


def judged(name: str, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows with `target`, held or missed, where there is one; and the targets that no row holds."""
    found = {row["method"]: row for row in rows}
    verdicts: dict[str, str] = {}
    missed = []
    for target in TARGETS[name]:
        told = {
            method: target.judge(found[method], found)
            for method in target.methods
            if method in found
        }
        verdicts |= {m: "held" if h else "missed" for m, h in told.items() if h is not None}
        if False in told.values() and True not in told.values():
            missed.append(f"{name}: {target.words}")
    return [{**row, "target": verdicts.get(row["method"])} for row in rows], missed
