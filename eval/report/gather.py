"""A chain folder read into a `Story`, as far as the chain has come."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from cpt.chain_file import REPORTED, read_chain, read_manifest
from eval.compare import changes, shifts
from eval.gate import Verdict, judge, num_verdicts, reported
from eval.head import head_of
from eval.labels import relabelled
from eval.looks import read_looks
from eval.matrix import Matrix, Row, read_matrix
from eval.noise import Noise, read_noise
from eval.report.columns import columns
from eval.report.ledger import entry
from eval.report.series import read_series
from eval.report.story import Comparison, Stage, Status, Story
from eval.template import across, declared_in


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
    probed = head_of(result).get("seconds") if row else None
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
