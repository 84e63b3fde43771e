"""What a stage's looks saw while it trained: series over steps, and how far each probe fell on the way."""

from dataclasses import dataclass
from pathlib import Path

from eval.matrix import Matrix, read_row
from eval.report.series import Series, read_series
from eval.stability import Gap, gaps

FOLDER = "watch"
#: Of a suite's results, by step.
RESULTS = "step-*.json"
#: Resamples of the intervals of a gap: there are as many gaps as stages times probes.
NUM_RESAMPLES = 400


@dataclass(frozen=True)
class Looks:
    """The looks of one stage; empty where nobody looked.

    Attributes:
        suite: which was looked with.
        drift: KL from the base model, and the loss on general text.
        probes: scores of the suite.
        matrix: the same with their items, a row for each look.
        gaps: of every probe, once there are two looks; losses are negated.
    """

    suite: str = ""
    drift: tuple[Series, ...] = ()
    probes: tuple[Series, ...] = ()
    matrix: Matrix | None = None
    gaps: tuple[Gap, ...] = ()

    def series(self, name: str) -> Series | None:
        """One of the drift's series, if it was measured."""
        return next((one for one in self.drift if one.name == name and one.steps), None)


def read_looks(stage_folder: Path) -> Looks:
    """The looks in a stage folder, also of one that is still training.

    Raises:
        ProbeError: a result is damaged.
    """
    series = read_series(stage_folder / FOLDER / "watch.jsonl")
    drift = tuple(one for one in series if not one.name.startswith("probe/"))
    probes = tuple(one for one in series if one.name.startswith("probe/") and one.steps)
    folder = _newest(stage_folder / FOLDER)
    if folder is None:
        return Looks(drift=drift, probes=probes)
    name, _, suite_hash = folder.name.rpartition("-")
    files = {int(file.stem.removeprefix("step-")): file for file in folder.glob(RESULTS)}
    steps = sorted(files)
    rows = tuple(read_row(f"step {step}", "", files[step], suite_hash) for step in steps)
    matrix = Matrix(name, suite_hash, rows, tuple(rows[0].scores))
    found = gaps(matrix, steps, num_resamples=NUM_RESAMPLES) if len(rows) > 1 else ()
    return Looks(name, drift, probes, matrix, found)


def _newest(folder: Path) -> Path | None:
    """The results of the suite that was looked with last; another is left where a stage began anew."""
    places = {file.parent for file in folder.glob(f"*/{RESULTS}")}
    return max(places, key=lambda place: place.stat().st_mtime, default=None)
