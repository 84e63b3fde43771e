"""Training curves out of metrics.jsonl: one value per step, thinned to what a page can show."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """One logged quantity over optimizer steps; `num_lost` counts values that were not finite."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    num_lost: int = 0


def read_series(path: Path) -> tuple[Series, ...]:
    """All numeric series of a log, in the order of their first appearance; none without a file.

    The last value of a step counts: after an interruption steps are logged again. A line that
    is cut off, as a killed process leaves it, is passed over.
    """
    if not path.is_file():
        return ()
    columns: dict[str, dict[float, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or not _is_number(entry.get("step")):
            continue
        for name, value in entry.items():
            if name != "step" and _is_number(value):
                columns.setdefault(name, {})[float(entry["step"])] = float(value)
    return tuple(_series(name, points) for name, points in columns.items())


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """About `most` points: the lowest and the highest of each bucket, so that spikes stay."""
    count = len(series.steps)
    if count <= most:
        return series
    size = math.ceil(2 * count / most)
    kept = {0, count - 1}
    for start in range(0, count, size):
        bucket = range(start, min(start + size, count))
        kept |= {min(bucket, key=series.values.__getitem__)}
        kept |= {max(bucket, key=series.values.__getitem__)}
    order = sorted(kept)
    return Series(
        series.name,
        tuple(series.steps[index] for index in order),
        tuple(series.values[index] for index in order),
        series.num_lost,
    )


def _series(name: str, points: dict[float, float]) -> Series:
    finite = sorted((step, value) for step, value in points.items() if math.isfinite(value))
    return Series(
        name,
        tuple(step for step, _ in finite),
        tuple(value for _, value in finite),
        len(points) - len(finite),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
