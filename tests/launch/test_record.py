"""What a chain leaves for people, and which other chain its report compares it with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt.manifest import Manifest
from eval.probe import result_path
from launch import chain as chains
from launch import cli, record
from launch.backend import ROOT
from launch.console import Console
from launch.opening import Chain, open_chain
from launch.sibling import sibling

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"
Open = Callable[..., Chain]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def chain(*changes: str) -> Chain:
        return open_chain(SMOKE, changes, tmp_path / "runs")

    return chain


def cell(number: int) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {
            "id": str(i),
            "value": float((i + number) % 3 > 0),
            "weight": 1.0,
            "text": "",
            "answer": "",
        }
        for i in range(12)
    ]
    value = sum(item["value"] for item in items) / len(items)
    head = {"metric": "acc", "group": "code", "higher_is_better": True, "margin": None}
    return {**head, "value": value, "stderr": 0.1, "fingerprint": "a", "items": items}


def make(chain: Chain) -> None:
    """Every stage of a chain as if it were trained and measured."""
    assert chain.suite
    for number, node in enumerate(chain.plan.nodes):
        folder = chain.store.stage(node.id)
        if not folder.is_dir():
            folder.mkdir(parents=True)
            Manifest(id=node.id, kind=node.kind, name=node.name).write(folder)
        result = result_path(folder, chain.suite)
        result.parent.mkdir(exist_ok=True)
        head = {"suite": chain.suite.name, "suite_hash": chain.suite.hash, "seconds": 2.5}
        probes = {name: cell(number) for name in chain.suite.probes}
        result.write_text(json.dumps({**head, "probes": probes}))


def run(chain: Chain) -> str:
    """`cpt run` of a chain that is made; what its report says then."""
    assert chains.run(chain, Console()) == 0
    return (chain.store.chain(chain.plan.name) / "report.md").read_text()


def age(runs: Path) -> None:
    """Make everything that is there older than what comes."""
    for file in runs.rglob("*"):
        if file.is_file():
            status = file.stat()
            os.utime(file, (status.st_atime - 60, status.st_mtime - 60))


def test_the_recipe_is_kept_as_it_was_resolved(opened: Open) -> None:
    chain = opened("stages.sft.train.learning_rate=3e-6")
    folder = record.link(chain)
    text = (folder / "recipe.yaml").read_text()
    assert text.startswith("# As resolved, overrides applied; from ")
    recipe = yaml.safe_load(text)
    assert recipe["stages"]["sft"]["train"]["learning_rate"] == 3e-6
    assert recipe["stages"]["sft"]["hooks"] == [
        {"replay": {"of": "pretrain", "share": 0.2}},
        {"kl": {"beta": 0.1}},
    ]
    again = open_chain(folder / "recipe.yaml", [], chain.store.root)
    assert [node.id for node in again.plan.nodes] == [node.id for node in chain.plan.nodes]
    (folder / "recipe.yaml").unlink()
    assert not record.is_linked(chain)
    record.link(chain)
    assert (folder / "recipe.yaml").read_text() == text
    assert record.is_linked(chain)


def test_a_baseline_that_ran_later_reaches_the_report(opened: Open, tmp_path: Path) -> None:
    main, naive = opened(), opened("baseline=naive")
    make(main)
    assert "smoke-naive" not in run(main)
    age(tmp_path / "runs")
    make(naive)
    assert "smoke" in run(naive)
    assert "smoke-naive" in run(main)
    # Of two baselines a report shows the naive one; the other is compared with the chain itself.
    joint = opened("baseline=joint")
    make(joint)
    assert "smoke-naive" not in run(joint)
    assert "smoke-joint" not in run(main)
    folder = main.store.chain("smoke")
    written = (folder / "report.html").stat().st_mtime_ns
    run(main)
    assert (folder / "report.html").stat().st_mtime_ns == written, "nothing had changed"
    age(tmp_path / "runs")
    sft = naive.store.stage(naive.plan.node("sft").id)
    assert naive.suite
    result_path(sft, naive.suite).touch()
    run(main)
    assert (folder / "report.html").stat().st_mtime_ns > written


def test_a_report_is_written_anew_when_what_it_shows_is_newer(opened: Open, tmp_path: Path) -> None:
    chain = opened()
    make(chain)
    run(chain)
    folder, stage = chain.store.chain("smoke"), chain.store.stage(chain.plan.node("sft").id)
    assert chain.suite
    for name in (
        "watch/watch.jsonl",
        "watch/small-ab/base-float32.json",
        f"probes/{chain.suite.name}-{chain.suite.hash}.again.json",
    ):
        assert record.is_current(folder, chain, chain.plan.nodes), name
        age(tmp_path / "runs")
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).touch()
        assert not record.is_current(folder, chain, chain.plan.nodes), name
        (stage / name).unlink()
    text = (folder / "report.json").read_text()
    (folder / "report.json").write_text(text.replace('"version": ', '"version": 9', 1))
    assert not record.is_current(folder, chain, chain.plan.nodes)
    (folder / "report.json").unlink()
    assert not record.is_current(folder, chain, chain.plan.nodes)


@pytest.mark.parametrize("name", ["smoke", "smoke-naive"])
def test_report_keeps_the_comparison(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    chosen = {chain.plan.name: chain for chain in (opened(), opened("baseline=naive"))}
    report = ["report", name, "--runs", str(tmp_path / "runs")]
    make(chosen[name])
    run(chosen.pop(name))
    text = tmp_path / "runs" / "chains" / name / "report.md"
    ((other, chain),) = chosen.items()
    assert cli.main(report) == 0
    assert f"against {other}" not in text.read_text().lower()
    make(chain)
    run(chain)
    assert cli.main(report) == 0
    assert f"against {other}" in text.read_text().lower()


def test_a_sibling_that_cannot_be_compared_is_left_out_aloud(opened: Open) -> None:
    main, naive = opened(), opened("baseline=naive")
    folder, other = record.link(main), record.link(naive)
    said: list[str] = []
    assert sibling(folder, said.append) == other
    assert sibling(other, said.append) == folder
    assert said == []
    tree = json.loads((other / "chain.json").read_text())
    tree["suite"]["hash"] = "0"
    (other / "chain.json").write_text(json.dumps(tree))
    assert sibling(folder, said.append) is None
    (other / "chain.json").write_text("{")
    assert sibling(folder, said.append) is None
    assert "smoke-naive: it was measured with another suite; run it again" in said[0]
    assert "smoke-naive: " in said[1]
    assert "is damaged" in said[1]
    assert len(said) == 2


def test_links_and_report_are_written_under_the_chains_lock(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that wake together would remove each other's links, or tell what the other outdated."""
    import fcntl

    from eval.report import write

    chain = opened()
    make(chain)
    held = []

    def is_held() -> bool:
        file = chain.store.root / "locks" / "chain-smoke"
        if not file.is_file():
            return False
        with file.open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            held.append((name, is_held()))
            return function(*arguments)

        return call

    monkeypatch.setattr(write, "write_report", watched("report", write.write_report))
    monkeypatch.setattr(chains, "link", watched("links", record.link))
    run(chain)
    assert held == [("links", True), ("report", True)]
    run(chain)
    assert len(held) == 2, "a finished chain is left alone"
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert cli.main(["report", "smoke", "--runs", str(chain.store.root)]) == 0
    assert held[2:] == [("report", True)]
