"""What a stage's looks saw while it trained: series over steps, and how far each probe fell on the way."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cpt.errors import ProbeError
from eval.continual import SHARE, unit_of
from eval.matrix import Matrix, Row, Score, read_row
from eval.report.series import Series, read_series
from eval.resample import Resamples
from eval.stability import Gap, Lowest, gaps, lowest

FOLDER = "watch"
#: Of a suite's results, by step; and of the base model's, by number type, where looks needed their own.
RESULTS, OF_BASE = "step-*.json", "base-*.json"
#: Resamples of the intervals of a gap: there are as many gaps as stages times probes.
NUM_RESAMPLES = 400


@dataclass(frozen=True)
class Looks:
    """The looks of one stage; empty where nobody looked. Items are not kept: there are many looks.

    Attributes:
        suite: which was looked with.
        signals: KL from the base model, and the loss on general text.
        probes: scores of the suite.
        gaps: of every probe, once there are two looks; losses are negated.
        lowest: min-ACC and WC-ACC, likewise.
        old_drop: how far the mean of old probes lies below the base model's; None where that is not known.
        unreadable: which results are damaged, and how; the others are told.
    """

    suite: str = ""
    signals: tuple[Series, ...] = ()
    probes: tuple[Series, ...] = ()
    gaps: tuple[Gap, ...] = ()
    lowest: tuple[Lowest, ...] = ()
    old_drop: Series | None = None
    unreadable: tuple[str, ...] = ()

    def series(self, name: str) -> Series | None:
        """One of the signals, if it was measured."""
        return next((one for one in self.signals if one.name == name and one.steps), None)


def read_looks(
    stage_folder: Path,
    stage: str = "",
    earlier: Collection[str] = (),
    base_folder: Path | None = None,
) -> Looks:
    """The looks in a stage folder, also of one that is still training.

    Args:
        stage: its name in the chain, by which probes name their owner.
        earlier: the stages before it.
        base_folder: of the base model's stage, where its result with the same suite lies.
    """
    series = read_series(stage_folder / FOLDER / "watch.jsonl")
    signals = tuple(one for one in series if not one.name.startswith("probe/"))
    probes = tuple(one for one in series if one.name.startswith("probe/") and one.steps)
    folder = _newest(stage_folder / FOLDER)
    if folder is None:
        return Looks(signals=signals, probes=probes)
    name, _, suite_hash = folder.name.rpartition("-")
    rows: dict[int, Row] = {}
    unreadable = []
    for file in sorted(folder.glob(RESULTS), key=_step):
        try:
            rows[_step(file)] = read_row(f"step {_step(file)}", "", file, suite_hash)
        except ProbeError as error:
            unreadable.append(str(error))
    found = Looks(name, signals, probes, unreadable=tuple(unreadable))
    if len(rows) < 2:
        return found
    first = next(iter(rows.values()))
    matrix = Matrix(name, suite_hash, tuple(rows.values()), tuple(first.scores))
    resamples = Resamples(matrix, NUM_RESAMPLES)
    try:
        gap, low = gaps(matrix, list(rows), resamples=resamples), lowest(matrix, stage, resamples)
    except ProbeError as error:  # looks that cannot be compared, such as of two versions of a task
        return Looks(name, signals, probes, unreadable=(*unreadable, str(error)))
    drop, problem = _old_drop(rows, folder, base_folder, earlier)
    unreadable += [problem] if problem else []
    return Looks(name, signals, probes, gap, low, drop, tuple(unreadable))


def _old_drop(
    rows: dict[int, Row], folder: Path, base_folder: Path | None, earlier: Collection[str]
) -> tuple[Series | None, str]:
    """Base minus look, the mean over old probes whose scores are shares of 1; and what is damaged.

    Old is what an earlier stage taught, or nobody: a `domain` probe without an owner may be what this
    stage teaches. What was measured otherwise than the base is left out.
    """
    suite_hash = folder.name.rpartition("-")[2]
    files = sorted(folder.glob(OF_BASE))
    files += [base_folder / "probes" / f"{folder.name}.json"] if base_folder else []
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None, ""
    try:
        base = read_row("base", "", file, suite_hash)
    except ProbeError as error:
        return None, str(error)
    old = [
        probe
        for probe, score in base.scores.items()
        if _is_old(score, earlier)
        and all(
            probe in row.scores and row.scores[probe].fingerprint == score.fingerprint
            for row in rows.values()
        )
    ]
    if not old:
        return None, ""
    drops = []
    for row in rows.values():
        falls = [
            (base.scores[probe].value - row.scores[probe].value)
            * (1 if base.scores[probe].higher_is_better else -1)
            for probe in old
        ]
        drops.append(sum(falls) / len(falls))
    return Series("old_drop", tuple(map(float, rows)), tuple(drops)), ""


def _is_old(score: Score, earlier: Collection[str]) -> bool:
    taught_before = score.group != "domain" if score.owner is None else score.owner in earlier
    return taught_before and not score.is_drift and unit_of(score) == SHARE


def _step(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


def _newest(folder: Path) -> Path | None:
    """The results of the suite that was looked with furthest; another is left where a stage began anew.

    Not by time: a store may have been copied. A stage that begins anew takes away the looks behind it, so
    of an earlier suite no more than the look before the first step is left.
    """
    furthest: dict[Path, int] = {}
    for file in folder.glob(f"*/{RESULTS}"):
        furthest[file.parent] = max(_step(file), furthest.get(file.parent, 0))
    return max(sorted(furthest), key=furthest.__getitem__, default=None)
