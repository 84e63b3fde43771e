"""A chain folder read into one `Story`: stages, matrix, changes and verdicts, whole or half-run."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from cpt.actions import REMEDIES, Action
from cpt.chain_file import REPORTED, read_chain, read_manifest
from eval.by_group import GroupChange, by_group
from eval.compare import Change, changes, shifts
from eval.continual import Continual, continual
from eval.gate import Verdict, judge, num_verdicts, reported
from eval.labels import relabelled
from eval.looks import Looks, read_looks
from eval.matrix import Matrix, Row, read_matrix
from eval.noise import Noise, read_noise
from eval.report.columns import Probe, columns
from eval.report.flips import Flips, flips
from eval.report.ledger import Entry, entry
from eval.report.series import Series, read_series
from eval.resample import Resamples
from eval.template import across, declared_in

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


def gather(chain_folder: Path, stages_folder: Path, compare_with: Path | None = None) -> Story:
    """Read a chain, as far as it has come.

    Args:
        compare_with: the folder of a second chain over the same suite and the same `stages_folder`.

    Raises:
        StoreError: no chain in the folder, or a file that is damaged.
        ProbeError: probe results that are damaged or were measured differently.
    """
    chain = read_chain(chain_folder / "chain.json", REPORTED)
    nodes, suite, gate = chain["nodes"], chain["suite"], chain["gate"]
    file_name = f"{suite['name']}-{suite['hash']}.json"
    results = [(n["name"], n["id"], stages_folder / n["id"] / "probes" / file_name) for n in nodes]
    declared = suite.get("probes") or {}
    margins = {name: p["margin"] for name, p in declared.items() if p.get("margin") is not None}
    matrix = relabelled(read_matrix(results, suite["name"], suite["hash"]), declared)
    templates = declared_in(stages_folder / node["id"] for node in nodes)
    matrix = across(reported(matrix, margins), templates)
    noise = read_noise(results[0][2], suite["hash"]) if results[0][2].is_file() else {}
    num_stages = sum("stands_for" not in node for node in nodes) - 1
    stages = [
        _stage(node, nodes[0]["name"], stages_folder, path, matrix, gate, num_stages, noise)
        for node, (_, _, path) in zip(nodes, results, strict=True)
    ]
    story = Story(
        name=chain["name"],
        seed=chain.get("seed"),
        baseline=chain.get("baseline"),
        command=chain.get("command") or _command(chain),
        recipe=chain.get("recipe") or {},
        suite=suite["name"],
        suite_hash=suite["hash"],
        margin=gate["margin"],
        on_regression=gate["on_regression"],
        stages=tuple(stages),
        probes=columns(declared, matrix, gate["margin"]),
        matrix=matrix,
        noise=noise,
    )
    if compare_with is None:
        return story
    return _compare(story, gather(compare_with, stages_folder))


def _stage(
    node: dict[str, Any],
    base: str,
    stages_folder: Path,
    result: Path,
    matrix: Matrix,
    gate: dict[str, Any],
    num_stages: int,
    noise: Mapping[str, Noise],
) -> Stage:
    rows = {row.stage: row for row in matrix.rows}
    row, start, margin = rows.get(node["name"]), rows.get(base), gate["margin"]
    folder = stages_folder / node["id"]
    partial = folder.with_name(f"{folder.name}.partial")
    finished = (folder / "manifest.json").is_file()
    parents = tuple(node.get("parents") or ())
    predecessor = (
        next((rows[parent] for parent in parents if parent in rows), None) if row else None
    )
    later = row if row and start and row is not start else None
    acts = [gate["on_regression"], *(gate.get("actions") or {}).values()]
    tested: dict[str, Any] = {"num_pairs": num_verdicts(num_stages, acts), "noise": noise}
    from_base = changes(start, later, margin, **tested) if start and later else ()
    from_predecessor = from_base
    if row and predecessor is not start:
        from_predecessor = changes(predecessor, row, margin, **tested) if predecessor else ()
    manifest = read_manifest(folder / "manifest.json") if finished else {}
    seconds = dict(manifest.get("seconds") or {})
    probed = probe_seconds(result) if row else None
    if probed is not None:
        seconds["probe"] = probed
    whole = start and later and start.scores.keys() == later.scores.keys()
    return Stage(
        name=node["name"],
        kind=node["kind"],
        id=node["id"],
        status=_status(row is not None, finished, partial.is_dir()),
        parents=parents,
        reference=node.get("reference"),
        hooks=tuple(node.get("hooks") or ()),
        manifest=manifest,
        series=read_series((folder if folder.is_dir() else partial) / "metrics.jsonl"),
        probe_seconds=probed,
        looks=read_looks(
            folder if folder.is_dir() else partial,
            node["name"],
            [one.stage for one in takewhile(lambda one: one.stage != node["name"], matrix.rows)],
            stages_folder / start.id if start else None,
        ),
        cost=entry(node["name"], manifest, seconds, manifest.get("memory") or {}, folder),
        row=row,
        predecessor=predecessor,
        from_base=from_base,
        from_predecessor=from_predecessor,
        verdict=_verdict(node, matrix, gate, num_stages, noise) if whole else None,
        shifted=shifts(start, later) if start and later else (),
    )


def _verdict(
    node: dict[str, Any],
    matrix: Matrix,
    gate: dict[str, Any],
    num_stages: int,
    noise: Mapping[str, Noise],
) -> Verdict:
    return judge(
        matrix,
        node["name"],
        gate["margin"],
        gate["on_regression"],
        num_stages,
        noise,
        actions=gate.get("actions"),
        is_remedy="stands_for" in node,
    )


def _status(probed: bool, finished: bool, begun: bool) -> Status:
    if probed:
        return "probed"
    return "trained" if finished else "unfinished" if begun else "to do"


def probe_seconds(result: Path) -> float | None:
    """How long a probe result took, from the few bytes before its items, which are megabytes."""
    with result.open(encoding="utf-8") as file:
        start, probes, _ = file.read(4000).partition('"probes"')
    found = re.search(r'"seconds": *([0-9.]+(?:e[+-]?[0-9]+)?)', start) if probes else None
    return float(found[1]) if found else json.loads(result.read_text()).get("seconds")


def _command(chain: dict[str, Any]) -> str:
    baseline = f" baseline={chain['baseline']}" if chain.get("baseline") else ""
    return f"cpt run {chain.get('recipe_path', 'chain.yaml')}{baseline}"


def _compare(story: Story, other: Story) -> Story:
    """Put the other chain beside `story` at the last stage that both have probed, as it stands."""
    pairs: Iterable[tuple[Row, Row]] = (
        (theirs, ours)
        for ours in reversed(story.standing[1:])
        for theirs in other.standing[1:]
        if ours.stage == theirs.stage
    )
    pair = next(iter(pairs), None)
    if pair is None:
        return story
    theirs = replace(pair[0], templates=frozenset())  # declared changes are those within a chain
    found = changes(theirs, pair[1], story.margin)
    return replace(story, comparison=Comparison(other, pair[0], pair[1], found))
