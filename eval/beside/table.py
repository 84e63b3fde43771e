"""Scores of several models, and the changes from one of them, corrected over the whole comparison.

Holm runs over all probes of all models together, for `regressed` and for `improved`, so that of many
columns no more are marked by chance than of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cpt.errors import ProbeError
from eval.change import Change, judged
from eval.compare import changes
from eval.matrix import Matrix, Row
from eval.noise import Noise
from eval.report.columns import Probe, columns
from eval.template import note

LEVEL = 0.05


@dataclass(frozen=True)
class Column:
    """One model; `changes` go from the reference to it, by probe, and are empty for the reference."""

    row: Row
    changes: dict[str, Change]

    @property
    def label(self) -> str:
        """What the model is called."""
        return self.row.stage


@dataclass(frozen=True)
class Table:
    """Probes x models of one suite."""

    suite: str
    suite_hash: str
    margin: float
    level: float
    reference: Row
    columns: tuple[Column, ...]
    probes: tuple[Probe, ...]

    @property
    def num_tests(self) -> int:
        """Over how many changes Holm corrects."""
        return sum(len(column.changes) for column in self.columns)

    @property
    def template_note(self) -> str:
        """Which models were asked in another chat template than the reference; empty where none was."""
        others = (column.row for column in self.columns if column.row is not self.reference)
        return note([self.reference, *others])

    def detectable(self, probe: str) -> float | None:
        """The largest minimum detectable effect among the models; None where nothing is compared."""
        found = [c.changes[probe].detectable for c in self.columns if probe in c.changes]
        return max(found, default=None)


def compare_rows(
    suite: str,
    suite_hash: str,
    rows: Sequence[Row],
    reference: str,
    margin: float,
    level: float = LEVEL,
    noise: Mapping[str, Noise] | None = None,
) -> Table:
    """Compare every row with the one called `reference`, in the order given.

    Args:
        margin: of probes that have none of their own.
        level: chance that any of all changes is falsely called `regressed`; the same of `improved`.
        noise: of the reference measured twice; see `eval.noise`.

    Raises:
        ProbeError: two rows with one name, or a probe that was measured differently in two rows.
    """
    names = [row.stage for row in rows]
    if len(set(names)) < len(names) or reference not in names:
        raise ProbeError(f"the models {', '.join(names)} need different names, and {reference} one")
    start = rows[names.index(reference)]
    num_pairs = max(1, len(rows) - 1)  # what is detectable is told at Holm's first step over all
    single = {
        row.stage: changes(start, row, margin, level, num_pairs=num_pairs, noise=noise)
        for row in rows
        if row is not start
    }
    flat = [change for found in single.values() for change in found]
    marked = iter(judged(flat, level))
    told = tuple(
        Column(row, {change.probe: next(marked) for change in single.get(row.stage, ())})
        for row in rows
    )
    probes = tuple(dict.fromkeys(probe for row in rows for probe in row.scores))
    matrix = Matrix(suite, suite_hash, tuple(rows), probes)
    return Table(suite, suite_hash, margin, level, start, told, columns({}, matrix, margin))
