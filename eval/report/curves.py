"""Training curves of a stage as small line charts: losses, hooks' terms, rewards, divergence."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.markup import Markup, tag
from eval.report.series import Series, thinned
from eval.report.svg import Scale, axis_text, drawing, label, line, padded, path, ticks
from eval.report.text import compact, shorten

WIDTH, HEIGHT = 268.0, 160.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 14.0, 36.0, 24.0
_MOST_LINES = 4
# Charts in the order of a page; names are those that TRL's trainers and our hooks log.
_CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "eval_loss")),
    ("reward", ("reward",)),
    ("KL to the reference", ("kl",)),
    ("preference accuracy", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("implicit rewards", ("rewards/chosen", "rewards/rejected")),
    ("tokens per completion", ("completions/mean_length",)),
    ("entropy", ("entropy",)),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
)


@dataclass(frozen=True)
class Chart:
    """A title and the series drawn under it."""

    title: str
    series: tuple[Series, ...]


def charts(series: Sequence[Series]) -> list[Chart]:
    """Which charts a stage gets: losses first, then its hooks' terms, rewards, the rest."""
    known = {one.name: one for one in series}
    found = [
        Chart(title, tuple(known[name] for name in names if name in known))
        for title, names in _CHARTS
    ]
    hooks = [
        Chart(name.removeprefix("hook/") + " (hook)", (known[name],))
        for name in known
        if name.startswith("hook/")
    ]
    functions = tuple(
        known[name] for name in known if name.startswith("rewards/") and name.endswith("/mean")
    )[:_MOST_LINES]
    by_function = [Chart("reward by function", functions)] if len(functions) > 1 else []
    return [
        chart for chart in [found[0], *hooks, found[1], *by_function, *found[2:]] if chart.series
    ]


def draw(chart: Chart) -> Markup:
    """One chart with axes; a series without any finite value leaves a note."""
    lines = [thinned(one) for one in chart.series if one.steps]
    title = label(shorten(chart.title, 26), _LEFT, 14, "title")
    if not lines:
        return drawing(
            WIDTH,
            HEIGHT,
            title,
            label("no finite value was logged", _LEFT, 60, "hint"),
            label=f"{chart.title}: no finite value",
            class_="curve",
        )
    across = Scale(*_steps(lines), _LEFT, WIDTH - _RIGHT)
    up = Scale(*padded([v for one in lines for v in one.values]), HEIGHT - _BOTTOM, _TOP)
    parts = [title, *_axes(across, up), *_keys(lines)]
    for index, one in enumerate(lines):
        points = [(across(x), up(y)) for x, y in zip(one.steps, one.values, strict=True)]
        parts.append(path(points, f"line series-{index}"))
        if len(points) <= 12:
            dots = [
                tag("circle", cx=x, cy=y, r=2.4, class_=f"dot series-{index}") for x, y in points
            ]
            parts += dots
    lost = sum(one.num_lost for one in chart.series)
    if lost:
        parts.append(
            label(
                f"{lost} values were not finite",
                WIDTH - _RIGHT,
                HEIGHT - _BOTTOM - 6,
                "alarm",
                "end",
            )
        )
    return drawing(WIDTH, HEIGHT, *parts, label=_about(chart, lines), class_="curve")


def _steps(lines: Sequence[Series]) -> tuple[float, float]:
    low = min(one.steps[0] for one in lines)
    high = max(one.steps[-1] for one in lines)
    return (low, high) if high > low else (low - 1, high + 1)


def _axes(across: Scale, up: Scale) -> list[Markup]:
    parts = []
    for number in ticks(up.low, up.high):
        y = up(number)
        parts += [line(_LEFT, y, WIDTH - _RIGHT, y, "grid")]
        parts += [label(axis_text(number), _LEFT - 6, y + 3.5, "tick", "end")]
    for number in ticks(across.low, across.high):
        if number == int(number):
            parts.append(label(compact(number), across(number), HEIGHT - 8, "tick", "middle"))
    parts.append(label("step", _LEFT - 6, HEIGHT - 8, "hint", "end"))
    parts.append(line(_LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM, "axis"))
    return parts


def _keys(lines: Sequence[Series]) -> list[Markup]:
    """Names of the series under the title; a single one shows its last value there."""
    if len(lines) == 1:
        return [label(f"last {compact(lines[0].values[-1])}", _LEFT, 27, "hint")]
    parts, x = [], _LEFT
    for index, one in enumerate(lines):
        name = shorten(_short(one.name), 80 // len(lines) // 2)
        parts.append(line(x, 23.5, x + 12, 23.5, f"line series-{index}"))
        parts.append(label(name, x + 16, 27, "hint"))
        x += 16 + 6.2 * len(name) + 10
    return parts


def _short(name: str) -> str:
    return name.removeprefix("rewards/").removesuffix("/mean").removesuffix("_loss")


def _about(chart: Chart, lines: Sequence[Series]) -> str:
    ends = ", ".join(
        f"{one.name} from {compact(one.values[0])} to {compact(one.values[-1])}" for one in lines
    )
    return f"{chart.title} over steps: {ends}"
