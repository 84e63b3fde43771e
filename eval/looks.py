"""What a stage's looks saw while it trained: series over steps, and how far each probe fell on the way."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report.series import Series, read_series

FOLDER = "watch"


@dataclass(frozen=True)
class Gap:
    """One probe over the looks of a stage: the stability gap, which the end of a stage hides.

    Attributes:
        base: the base model's score, where it is known.
        first, last: before the first step and after the last one.
        worst, step: the worst score on the way, in the metric's own direction, and when.
    """

    probe: str
    metric: str
    higher_is_better: bool
    base: float | None
    first: float
    worst: float
    step: int
    last: float

    @property
    def fall(self) -> float:
        """How much worse than at its start the stage was at its worst; never below 0."""
        return self._loss(self.first, self.worst)

    @property
    def recovery(self) -> float:
        """How much of it came back by the end."""
        return self._loss(self.last, self.worst)

    def _loss(self, better: float, worse: float) -> float:
        return better - worse if self.higher_is_better else worse - better


@dataclass(frozen=True)
class Looks:
    """The looks of one stage; empty where nobody looked.

    Attributes:
        drift: KL from the base model, and the loss on general text.
        probes: scores of the suite that was looked with.
    """

    suite: str = ""
    drift: tuple[Series, ...] = ()
    probes: tuple[Series, ...] = ()
    gaps: tuple[Gap, ...] = ()

    def series(self, name: str) -> Series | None:
        """One of the drift's series, if it was measured."""
        return next((one for one in self.drift if one.name == name and one.steps), None)


def read_looks(stage_folder: Path) -> Looks:
    """The looks in a stage folder, also of one that is still training."""
    series = read_series(stage_folder / FOLDER / "watch.jsonl")
    suite = _suite(stage_folder / FOLDER / "suite.json")
    known = suite.get("probes", {})
    drift = tuple(one for one in series if not one.name.startswith("probe/"))
    probes = tuple(one for one in series if one.name.startswith("probe/") and one.steps)
    gaps = tuple(
        _gap(one, known[name])
        for one in probes
        if (name := one.name.removeprefix("probe/")) in known
    )
    return Looks(str(suite.get("name", "")), drift, probes, gaps)


def _suite(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (
        FileNotFoundError,
        ValueError,
    ):  # nobody looked with a suite, or was killed as they began
        return {}


def _gap(series: Series, probe: dict[str, Any]) -> Gap:
    higher = bool(probe["higher_is_better"])
    worst = (min if higher else max)(range(len(series.steps)), key=series.values.__getitem__)
    return Gap(
        probe=series.name.removeprefix("probe/"),
        metric=str(probe["metric"]),
        higher_is_better=higher,
        base=probe.get("base"),
        first=series.values[0],
        worst=series.values[worst],
        step=int(series.steps[worst]),
        last=series.values[-1],
    )
