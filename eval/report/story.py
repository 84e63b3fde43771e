"""What a report tells of a chain: stages, matrix, changes and verdicts, whole or half-run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from cpt.actions import REMEDIES, Action
from eval.by_group import GroupChange, by_group
from eval.change import Change
from eval.continual import Continual, continual
from eval.gate import Verdict
from eval.looks import Looks
from eval.matrix import Matrix, Row
from eval.noise import Noise
from eval.report.columns import Probe
from eval.report.flips import Flips, flips
from eval.report.ledger import Entry
from eval.report.series import Series
from eval.resample import Resamples

Status = Literal["probed", "trained", "unfinished", "to do"]


@dataclass(frozen=True)
class Stage:
    """A node of the chain and what is known of it; `predecessor` is the row it started from.

    `shifted` are the drifts from the base that nobody judges.
    """

    name: str
    kind: str
    id: str
    status: Status
    parents: tuple[str, ...]
    reference: str | None
    hooks: tuple[str, ...]
    manifest: dict[str, Any]
    series: tuple[Series, ...]
    probe_seconds: float | None
    looks: Looks
    cost: Entry
    row: Row | None
    predecessor: Row | None
    from_base: tuple[Change, ...]
    from_predecessor: tuple[Change, ...]
    verdict: Verdict | None
    shifted: tuple[Change, ...] = ()

    @cached_property
    def flips(self) -> Flips:
        """Items that were right in its predecessor's row and are wrong in its own, or the other way round."""
        if self.row is None or self.predecessor is None:
            return Flips((), ())
        return flips(self.predecessor, self.row)

    @property
    def gate(self) -> dict[str, Any]:
        """Attempts and choice of what a gate made; empty for all other stages."""
        return dict((self.manifest.get("checks") or {}).get("gate") or {})

    @property
    def stands_for(self) -> str:
        """The stage whose place in the chain it takes: itself, but for what a gate made."""
        return self.parents[0] if self.kind in REMEDIES and self.parents else self.name


@dataclass(frozen=True)
class Comparison:
    """Two chains at one point: `changes` go from the other chain's row to this chain's."""

    other: "Story"
    other_row: Row
    row: Row
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Story:
    """All that a report tells; rendering adds nothing to it.

    `noise` is empty unless the base model was measured twice.
    """

    name: str
    seed: int | None
    baseline: str | None
    command: str
    recipe: dict[str, Any]
    suite: str
    suite_hash: str
    margin: float
    on_regression: Action
    stages: tuple[Stage, ...]
    probes: tuple[Probe, ...]
    matrix: Matrix
    noise: Mapping[str, Noise]
    comparison: Comparison | None = None

    @cached_property
    def continual(self) -> tuple[Continual, ...]:
        """Transfer, forgetting and tax, by unit; none before a stage is probed."""
        if self._whole is None:
            return ()
        return continual(self._whole, self._resamples, self._parents)

    @cached_property
    def groups(self) -> tuple[GroupChange, ...]:
        """Relative change of every group of probes; then of what a model can, will and how it does it."""
        if self._whole is None:
            return ()
        groups = by_group(self._whole, resamples=self._resamples)
        if not any(score.facet for score in self._whole.rows[0].scores.values()):
            return groups
        facets = by_group(self._whole, lambda score: score.facet or "", self._resamples)
        return groups + tuple(
            replace(one, group=f"{one.group.upper()} (CapTrack)") for one in facets if one.group
        )

    @property
    def standing(self) -> tuple[Row, ...]:
        """The rows that the chain stands on: what a gate made has the name and the place of its stage."""
        found: dict[str, Row] = {}
        for stage in self.stages:
            if stage.row:
                found[stage.stands_for] = replace(stage.row, stage=stage.stands_for)
        return tuple(found.values())

    @property
    def _parents(self) -> dict[str, tuple[str, ...]]:
        """Parents of every stage by the names of `standing`."""
        names = {stage.name: stage.stands_for for stage in self.stages}
        return {
            stage.name: tuple(names.get(parent, parent) for parent in stage.parents)
            for stage in self.stages
            if stage.stands_for == stage.name
        }

    @cached_property
    def _resamples(self) -> Resamples:
        assert self._whole is not None
        return Resamples(self._whole)

    @cached_property
    def _whole(self) -> Matrix | None:
        """The matrix of `standing`, where no row lacks a probe."""
        rows = self.standing
        whole = len(rows) > 1 and all({*row.scores} == {*rows[0].scores} for row in rows)
        return replace(self.matrix, rows=rows) if whole else None

    @property
    def ledger(self) -> list[Entry]:
        """What every stage cost that was made or probed."""
        return [stage.cost for stage in self.stages if stage.cost.seconds]

    @property
    def last_probed(self) -> Stage | None:
        """The latest stage that has probe results, the base model too."""
        return next((stage for stage in reversed(self.stages) if stage.row), None)

    @cached_property
    def flips(self) -> Flips:
        """Items that flipped from the base model to the last checkpoint that is probed."""
        last = self.last_probed
        if last is None or last.row is None or not last.from_base:
            return Flips((), ())
        return flips(self.matrix.rows[0], last.row)

    def probe(self, name: str) -> Probe:
        """The column of that name."""
        return next(probe for probe in self.probes if probe.name == name)
