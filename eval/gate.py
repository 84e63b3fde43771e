"""The gate: may the chain go on after a stage, given the base row? Only `regressed` acts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cpt.actions import REMEDIES, Action, strictest
from cpt.errors import ProbeError
from eval.change import Change
from eval.compare import changes
from eval.matrix import Matrix, Row, Score
from eval.noise import Noise
from eval.skewed_t import LEAST_UNITS
from eval.split import only

if TYPE_CHECKING:
    from eval.suite import Probe

LEVEL = 0.05
#: Raised when equal results would be judged otherwise, or lead to another checkpoint.
VERSION = 2


@dataclass(frozen=True)
class Verdict:
    """What the gate found at a stage; `messages` are sentences for people, regressions first."""

    stage: str
    against: str
    action: Literal["pass"] | Action
    regressed: tuple[Change, ...]
    undecided: tuple[Change, ...]
    messages: tuple[str, ...]


def reported(matrix: Matrix, margins: Mapping[str, float]) -> Matrix:
    """The matrix over the items that are reported, with the margins that hold now.

    A result keeps the margin that its probe had when it was measured.
    """
    rows = tuple(with_margins(only(row, "test"), margins) for row in matrix.rows)
    return replace(matrix, rows=rows)


def margins_of(
    probes: Iterable["Probe"], margin: float, own: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The margins of a suite's probes: under `own`, else their own, else `margin`.

    A probe of which neither direction is better has none unless it is given one: `margin` is in other units,
    such as shares of 1.
    """
    told = own or {}
    return {
        probe.name: told.get(probe.name, margin if probe.margin is None else probe.margin)
        for probe in probes
        if probe.direction != "none" or probe.margin is not None or probe.name in told
    }


def with_margins(row: Row, margins: Mapping[str, float]) -> Row:
    """The row with other margins, where they are given."""
    scores = {
        name: replace(score, margin=margins.get(name, score.margin))
        for name, score in row.scores.items()
    }
    return replace(row, scores=scores)


def judge(
    matrix: Matrix,
    stage: str,
    margin: float,
    on_regression: Action,
    num_stages: int = 1,
    noise: Mapping[str, Noise] | None = None,
    *,
    actions: Mapping[str, Action] | None = None,
    is_remedy: bool = False,
) -> Verdict:
    """Compare a stage with the base model, row 0.

    Args:
        matrix: see `reported`.
        stage: its name or id.
        margin: of probes that have none of their own.
        on_regression: what a regression leads to.
        num_stages: stages of the chain that are judged, now or later, which share the level.
        noise: of the base model measured twice.
        actions: of probes for which that differs; the strictest of those that regressed is taken.
        is_remedy: the row is of what a gate made; where that regresses too, nothing is left but to stop.

    Raises:
        ProbeError: no base row, no row of that stage, or one of them lacks a probe of the other.
    """
    if not matrix.rows:
        raise ProbeError("the gate needs the base model's row first; the probe matrix is empty")
    base, row = matrix.rows[0], matrix.row(stage)
    if row is base:
        raise ProbeError(f"{stage} is the base row; the gate compares later stages with it")
    _check_complete(matrix, base, row)
    own = actions or {}
    verdicts = num_verdicts(num_stages, [on_regression, *own.values()])
    found = changes(base, row, margin, LEVEL, num_pairs=verdicts, noise=noise)
    regressed = tuple(change for change in found if change.verdict == "regressed")
    undecided = tuple(change for change in found if change.verdict == "undecided")
    messages = [
        regression(change, row.scores[change.probe], len(found), verdicts) for change in regressed
    ]
    messages += [indecision(change, row.scores[change.probe]) for change in undecided]
    action = strictest(own.get(change.probe, on_regression) for change in regressed)
    return Verdict(
        stage=row.stage,
        against=base.stage,
        action=("stop" if is_remedy and action != "warn" else action) if regressed else "pass",
        regressed=regressed,
        undecided=undecided,
        messages=tuple(messages),
    )


def num_verdicts(num_stages: int, actions: Iterable[Action]) -> int:
    """How many verdicts share the level: one a stage, and two where another checkpoint may take its place.

    That one is judged too. It is counted from the start, so that no verdict changes when a remedy is made.
    """
    return num_stages * (1 if set(REMEDIES).isdisjoint(actions) else 2)


def regression(
    change: Change, score: Score, num_probes: int, num_verdicts: int = 1, of: str = "probe"
) -> str:
    """Such as "facts fell by 7.5 points (+-2.9), more than its margin of 2.0; p = 0.003 ...".

    Args:
        of: what Holm's tests are of, in the singular.
    """
    verdicts = f" and {num_verdicts} verdicts" if num_verdicts > 1 else ""
    return (
        f"{movement(change, score)}, more than its margin of {amount(change.margin, score)}; "
        f"p {_p(change.p_holm)} after Holm over {num_probes} {_plural(of, num_probes)}{verdicts}"
    )


def indecision(change: Change, score: Score) -> str:
    """Such as "facts fell by 1.0 points (+-2.9): 100 items cannot tell whether ..."."""
    items = f"{change.num_items} {_plural('item', change.num_items)}"
    units = change.num_items if change.num_units is None else change.num_units
    if units != change.num_items:
        items += f" in {units} {_plural('cluster', units)}"
    text = (
        f"{movement(change, score)}: {items} cannot "
        f"tell whether it stays within its margin of {amount(change.margin, score)}"
    )
    if change.num_units is not None and units < LEAST_UNITS:
        return f"{text}; fewer than {LEAST_UNITS} tell nothing"
    text += f"; the smallest excess they would show is {amount(change.detectable, score)}"
    if change.num_items_needed is not None:
        needed = max(change.num_items_needed, change.num_items + 1)
        text += f"; about {_round_up(needed)} items would tell a fall of twice the margin"
    return text


def movement(change: Change, score: Score) -> str:
    """Such as "facts fell by 7.5 points (+-2.9)"; the number in brackets is one standard error."""
    if change.delta == 0:
        return f"{change.probe} did not change (+-{amount(change.stderr, score)})"
    verb = "rose" if change.delta > 0 else "fell"
    unit = " points" if in_points(score) else f" {score.metric.partition(',')[0]}"
    return (
        f"{change.probe} {verb} by {amount(abs(change.delta), score)}{unit} "
        f"(+-{amount(change.stderr, score)})"
    )


def amount(number: float, score: Score) -> str:
    """A difference as text: percentage points for shares, the metric's own unit otherwise."""
    return f"{100 * number:.1f}" if in_points(score) else f"{number:.3f}"


def in_points(score: Score) -> bool:
    """Whether the score is a share of 1, which people read in percent."""
    return not score.metric.startswith("bits_per_byte") and all(
        0 <= item.value <= 1 for item in score.items
    )


def _check_complete(matrix: Matrix, base: Row, row: Row) -> None:
    for one, other in ((base, row), (row, base)):
        missing = [probe for probe in other.scores if probe not in one.scores]
        if missing:
            raise ProbeError(
                f"{one.stage} has no score for {', '.join(missing)}, which {other.stage} has; "
                f"probe {one.stage} with suite {matrix.suite} again"
            )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3g}" if value < 0.1 else f"= {value:.3f}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _round_up(number: float) -> int:
    """Two significant digits, upwards: 1234.5 -> 1300."""
    step = 10 ** max(0, len(str(int(number))) - 2)
    return int(-(-number // step) * step)
