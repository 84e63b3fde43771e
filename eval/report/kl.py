"""KL from the base model against what was forgotten, over the looks of all stages.

Forgetting is how far the mean of old probes lies below the base model's, and besides it the rise of the
loss on general text. The fit is the quadratic through the base model, which has neither:
forgetting = b kl + c kl^2 by least squares, R^2 = 1 - sum(residual^2) / sum((forgetting - mean)^2). Looks at
one training are not independent, so R^2 describes and tests nothing.

Source: Shenfeld et al. 2025, arXiv:2509.04259 (RL's Razor); `methods.md` P056.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from eval.report.markup import Markup, join, tag
from eval.report.series import Series
from eval.report.story import Story
from eval.report.svg import Scale, axis_text, drawing, label, line, padded, path, ticks
from eval.report.text import compact, number, shorten, signed

WIDTH, HEIGHT = 420.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 120.0, 16.0, 40.0
_COLOURS = 4
#: Points below which nothing is fitted.
FEWEST = 3
#: Key -> what the vertical axis is.
KINDS = {
    "old_drop": "mean drop of old probes, shares of 1",
    "general_loss_rise": "rise of general loss, nats per token",
}
HEADS = ("forgetting", "stage", "hooks", "looks", "KL, last", "at the last", "most")
ABOUT = (
    "How far a stage has moved from the base model on its own prompts (forward KL, nats per token), and what "
    "of the base model is lost there: the mean drop of old probes, which no stage or an earlier one teaches, "
    "and the rise of the loss on general text. The relation weakens where a hook holds a stage to earlier "
    "ones."
)


@dataclass(frozen=True)
class Path:
    """The looks of one stage: (KL in nats per token, forgetting), in the order of steps."""

    stage: str
    points: tuple[tuple[float, float], ...]
    hooks: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """forgetting = linear kl + quadratic kl^2; `r_squared` may be below 0, as it has no constant."""

    linear: float
    quadratic: float
    r_squared: float
    num_points: int


def paths(story: Story, kind: str = "old_drop") -> list[Path]:
    """Of every stage that was looked at with KL and this kind of forgetting."""
    found = []
    for stage in story.stages:
        looks = stage.looks
        lost = looks.old_drop if kind == "old_drop" else looks.series(kind)
        if (kl := looks.series("kl")) and lost and (points := _points(kl, lost)):
            found.append(Path(stage.name, points, stage.hooks))
    return found


def fit(found: Sequence[Path]) -> Fit | None:
    """Over the points of all stages; None where there are too few, or too much alike, to tell."""
    points = [point for one in found for point in one.points]
    if len(points) < FEWEST:
        return None
    import numpy as np

    kl, lost = np.array(points).T
    solved, _, rank, _ = np.linalg.lstsq(np.stack([kl, kl**2], axis=1), lost, rcond=None)
    spread = float(((lost - lost.mean()) ** 2).sum())
    if rank < 2 or spread <= 1e-18:
        return None
    linear, quadratic = map(float, solved)
    missed = float(((lost - linear * kl - quadratic * kl**2) ** 2).sum())
    return Fit(linear, quadratic, 1 - missed / spread, len(points))


def fit_line(found: Sequence[Path]) -> str:
    """The fit in words, or why there is none."""
    fitted = fit(found)
    if fitted is None:
        return f"No fit: fewer than {FEWEST} looks, or all alike."
    return (
        f"Least squares through the base model: {compact(fitted.linear)} KL "
        f"{signed(fitted.quadratic)} KL^2, R^2 = {number(fitted.r_squared, 2)} over {fitted.num_points} "
        f"looks, which are not independent."
    )


def rows(story: Story) -> list[list[str]]:
    """A line for each stage and kind of forgetting, under `HEADS`."""
    return [
        [
            name,
            one.stage,
            ", ".join(one.hooks) or "none",
            str(len(one.points)),
            number(one.points[-1][0]),
            signed(one.points[-1][1]),
            signed(max(lost for _, lost in one.points)),
        ]
        for kind, name in KINDS.items()
        for one in paths(story, kind)
    ]


def section(story: Story) -> Markup:
    """A drawing of each kind and how to read it; nothing where nobody looked."""
    parts = []
    for kind, name in KINDS.items():
        if found := paths(story, kind):
            held = "; ".join(f"{one.stage}: {', '.join(one.hooks) or 'none'}" for one in found)
            parts += [tag("h4", name[0].upper() + name[1:])]
            parts += [tag("div", _draw(found, name), class_="scroll")]
            parts += [tag("p", f"{fit_line(found)} Hooks: {held}.", class_="hint")]
    if not parts:
        return Markup()
    lead = tag(
        "p", f"Each line is a stage, from its first look to its last. {ABOUT}", class_="lead"
    )
    return tag("section", tag("h2", "KL against forgetting"), lead, join(parts))


def _points(kl: Series, lost: Series) -> tuple[tuple[float, float], ...]:
    there = dict(zip(lost.steps, lost.values, strict=True))
    pairs = zip(kl.steps, kl.values, strict=True)
    return tuple((value, there[step]) for step, value in pairs if step in there)


def _draw(found: list[Path], what: str) -> Markup:
    across = Scale(*padded([x for one in found for x, _ in one.points]), _LEFT, WIDTH - _RIGHT)
    up = Scale(*padded([0.0, *(y for one in found for _, y in one.points)]), HEIGHT - _BOTTOM, _TOP)
    parts = []
    for tick in ticks(up.low, up.high):
        class_ = "zero" if tick == 0 else "grid"
        parts.append(line(_LEFT, up(tick), WIDTH - _RIGHT, up(tick), class_))
        parts.append(label(axis_text(tick), _LEFT - 6, up(tick) + 3.5, "tick", "end"))
    for tick in ticks(across.low, across.high):
        parts.append(label(axis_text(tick), across(tick), HEIGHT - 24, "tick", "middle"))
    parts.append(
        label("KL from the base model", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 7, "hint", "middle")
    )
    parts.append(label(what, _LEFT, 11, "hint"))
    if fitted := fit(found):
        most = max(x for one in found for x, _ in one.points)
        curve = [
            (x, fitted.linear * x + fitted.quadratic * x * x)
            for x in (most * part / 40 for part in range(41))
        ]
        for (x, y), (next_x, next_y) in pairwise(curve):
            if across.low <= x and up.low <= min(y, next_y) and max(y, next_y) <= up.high:
                parts.append(line(across(x), up(y), across(next_x), up(next_y), "zero"))
    for place, one in enumerate(found):
        places = [(across(x), up(y)) for x, y in one.points]
        class_ = f"series-{place % _COLOURS}"
        parts.append(path(places, f"line {class_}"))
        parts += [tag("circle", cx=x, cy=y, r=2.6, class_=f"dot {class_}") for x, y in places]
        x, y = WIDTH - _RIGHT + 12, _TOP + 12 + 18 * place
        parts.append(line(x, y, x + 14, y, f"line {class_}"))
        parts.append(label(shorten(one.stage, 13, "."), x + 20, y + 4, "hint"))
    told = ", ".join(
        f"{one.stage} from KL {axis_text(one.points[0][0])} to {axis_text(one.points[-1][0])}"
        for one in found
    )
    return drawing(WIDTH, HEIGHT, *parts, label=f"KL against {what}: {told}")
