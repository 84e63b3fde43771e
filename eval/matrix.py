"""The probe matrix: checkpoints (row 0 is the base model) x probes; cells keep their items."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpt.errors import ProbeError


@dataclass(frozen=True)
class Item:
    """One document of a probe: what the model made of it and how much it counts.

    Items of one `cluster`, such as questions about one text, count as one unit in every test; an item
    without a name there stands alone.
    """

    id: str
    value: float
    weight: float
    text: str
    answer: str
    cluster: str = ""
    split: Literal["dev", "test", ""] = ""


@dataclass(frozen=True)
class Score:
    """One cell: a probe's number on one checkpoint, with its standard error and its items.

    `value` is sum(weight * value) / sum(weight) over the items. `owner` is the stage that teaches the
    probe, `parts` what `fingerprint` hashes, by name; `is_drift` says that neither higher nor lower is
    better (`higher_is_better` then says nothing). `sound_items` are the items that `check_score` has
    passed: a copy with other labels keeps them, one with other items is checked anew.
    """

    probe: str
    metric: str
    group: str
    higher_is_better: bool
    margin: float | None
    value: float
    stderr: float
    items: tuple[Item, ...]
    fingerprint: str
    owner: str | None = None
    facet: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    is_drift: bool = False
    sound_items: tuple[Item, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def is_judged(self) -> bool:
        """Whether it takes part in verdicts: a drift only against a margin of its own.

        The gate's margin is in other units, such as shares of 1.
        """
        return not self.is_drift or self.margin is not None


@dataclass(frozen=True)
class Row:
    """All scores of one checkpoint; `stage` is its name in the chain, `id` its stage folder.

    `templates` are chat templates that its chain declares; rows that both have one are compared across
    it, see `eval.template`.
    """

    stage: str
    id: str
    scores: dict[str, Score]
    templates: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Matrix:
    """Stages x probes for one suite; `probes` in the order of the suite."""

    suite: str
    suite_hash: str
    rows: tuple[Row, ...]
    probes: tuple[str, ...]

    def row(self, stage: str) -> Row:
        """The row of a stage, by its name in the chain or its id.

        Raises:
            ProbeError: no such row.
        """
        for row in self.rows:
            if stage in (row.stage, row.id):
                return row
        from cpt.settings import did_you_mean  # pydantic: a fifth of a second

        known = [row.stage for row in self.rows]
        raise ProbeError(f"the probe matrix has no row {stage!r}{did_you_mean(stage, known)}")

    def to_csv(self) -> str:
        """One line per row: stage, id, then value and standard error per probe; a gap is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        columns = [name for probe in self.probes for name in (probe, f"{probe}_stderr")]
        writer.writerow(["stage", "id", *columns])
        for row in self.rows:
            cells: list[str] = []
            for probe in self.probes:
                score = row.scores.get(probe)
                cells += [repr(score.value), repr(score.stderr)] if score else ["", ""]
            writer.writerow([row.stage, row.id, *cells])
        return file.getvalue()

    def to_json(self) -> dict[str, Any]:
        """The matrix without its items, as plain JSON values."""
        return {
            "suite": self.suite,
            "suite_hash": self.suite_hash,
            "probes": list(self.probes),
            "rows": [
                {
                    "stage": row.stage,
                    "id": row.id,
                    "scores": {name: _cell(score) for name, score in row.scores.items()},
                }
                for row in self.rows
            ],
        }


def read_matrix(nodes: Sequence[tuple[str, str, Path]], suite: str, suite_hash: str) -> Matrix:
    """Read (stage name, stage id, result file) triples; a file that is missing gives no row.

    Raises:
        ProbeError: a file is damaged, belongs to another suite, or holds a score that is no number.
    """
    rows = []
    probes: dict[str, None] = {}
    for stage, stage_id, path in nodes:
        if not path.is_file():
            continue
        row = read_row(stage, stage_id, path, suite_hash)
        probes.update(dict.fromkeys(row.scores))
        rows.append(row)
    return Matrix(suite, suite_hash, tuple(rows), tuple(probes))


def read_row(stage: str, stage_id: str, path: Path, suite_hash: str) -> Row:
    """Read one result file; see `read_matrix`."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = result["suite_hash"]
        dtype = result.get("dtype")
        scores = {name: _score(name, cell, dtype) for name, cell in result["probes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ProbeError):
            raise ProbeError(f"{path}: {error}") from None
        raise ProbeError(
            f"{path}: is not a whole probe result ({type(error).__name__}: {error}); "
            f"delete it and the probes run again"
        ) from None
    if found != suite_hash:
        raise ProbeError(
            f"{path}: was measured with suite {found}, the matrix is of suite {suite_hash}; "
            f"probe {stage} again"
        )
    return Row(stage, stage_id, scores)


def _score(name: str, cell: dict[str, Any], dtype: str | None) -> Score:
    items = tuple(
        Item(
            str(item["id"]),
            float(item["value"]),
            float(item["weight"]),
            str(item["text"]),
            str(item["answer"]),
            str(item.get("cluster", "")),
            item.get("split", ""),
        )
        for item in cell["items"]
    )
    dtype = cell.get("dtype", dtype)
    parts = {key: str(value) for key, value in (cell.get("parts") or {}).items()}
    score = Score(
        probe=name,
        metric=str(cell["metric"]),
        group=str(cell["group"]),
        higher_is_better=bool(cell["higher_is_better"]),
        margin=None if cell["margin"] is None else float(cell["margin"]),
        value=float(cell["value"]),
        stderr=float(cell["stderr"]),
        items=items,
        fingerprint=str(cell["fingerprint"]),
        owner=cell.get("owner"),
        facet=cell.get("facet"),
        parts={**({"dtype": str(dtype)} if dtype else {}), **parts},
        is_drift=bool(cell.get("is_drift", False)),
    )
    check_score(score)
    return score


def check_score(score: Score) -> None:
    """Refuse a score without items, with equal item ids, or with a value that is no finite number.

    Raises:
        ProbeError: a NaN is a failure of the probe, not "no regression".
    """
    for what, number in (("value", score.value), ("stderr", score.stderr)):
        if not math.isfinite(number):
            raise ProbeError(f"probe {score.probe}: {what} is {number}, not a finite number")
    if score.sound_items is score.items:
        return
    if not score.items:
        raise ProbeError(f"probe {score.probe} has no items")
    if len({item.id for item in score.items}) < len(score.items):
        raise ProbeError(f"probe {score.probe} has items with equal ids")
    for item in score.items:
        if not math.isfinite(item.value):
            raise ProbeError(
                f"probe {score.probe}: item {item.id} is {item.value}, not a finite number"
            )
        if not 0 < item.weight < math.inf:
            raise ProbeError(f"probe {score.probe} has an item without a positive weight")
    object.__setattr__(score, "sound_items", score.items)  # tuples of frozen items: sound for good


def _cell(score: Score) -> dict[str, Any]:
    return {
        "metric": score.metric,
        "group": score.group,
        "higher_is_better": score.higher_is_better,
        "margin": score.margin,
        "value": score.value,
        "stderr": score.stderr,
        "num_items": len(score.items),
    }
