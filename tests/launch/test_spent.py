"""Where the time of a run went: what this run made, not what was there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cpt.manifest import Manifest
from eval.probe import result_path
from launch import chain as chains
from launch import spent
from launch.backend import ROOT
from launch.console import Console
from launch.opening import Chain, open_chain
from launch.spent import Spent

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return open_chain(SMOKE, [], tmp_path / "runs")


def make(chain: Chain, name: str, seconds: dict[str, float]) -> None:
    node = chain.plan.node(name)
    folder = chain.store.stage(node.id)
    folder.mkdir(parents=True)
    Manifest(id=node.id, kind=node.kind, name=name, seconds=seconds).write(folder)


def measure(chain: Chain, name: str, seconds: float) -> None:
    assert chain.suite
    file = result_path(chain.store.stage(chain.plan.node(name).id), chain.suite)
    file.parent.mkdir()
    file.write_text(json.dumps({"seconds": seconds, "probes": {}}))


def test_parts_are_summed_over_what_the_run_made(chain: Chain) -> None:
    make(chain, "base", {"load": 100.0})
    measure(chain, "base", 100.0)
    make(chain, "pretrain", {"load": 100.0, "train": 100.0})
    watch = Spent(chain, chain.plan.nodes[:4])
    measure(chain, "pretrain", 3.0)
    make(chain, "sft", {"load": 1.0, "train": 10.0, "save": 0.5})
    measure(chain, "sft", 4.0)
    make(chain, "dpo", {"load": 2.0, "train": 20.0})  # and no result: the run was interrupted
    make(chain, "grpo", {"load": 100.0})  # another run's
    assert watch.parts() == {"load": 3.0, "train": 30.0, "save": 0.5, "probe": 7.0}


def test_the_line_is_compact_and_adds_up() -> None:
    parts = {"load": 3.14, "train": 500.0, "probe": 90.0}
    assert spent.line(parts, 620.0, 3 * 2**29) == (
        "time: load 3.1 s, train 8 min 20 s, probe 1 min 30 s, other 26.9 s; together 10 min 20 s; "
        "peak memory 1.50 GiB"
    )
    assert "other 0.0 s" in spent.line({"train": 9.0}, 3.0, 0)  # made by another run, meanwhile


def test_the_peak_is_that_of_the_largest_process() -> None:
    before = spent.peak_memory()
    assert 2**24 < before < 2**40
    size = before + 2**27
    subprocess.run([sys.executable, "-c", f"b'x' * {size}"], check=True)
    assert spent.peak_memory() >= size


def test_a_run_ends_with_it_unless_there_was_nothing_to_do(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    console = Console()
    monkeypatch.setattr(console, "say", said.append)
    monkeypatch.setattr(chains, "_tell", lambda *given: None)
    monkeypatch.setattr(chains, "_print_report", lambda *given: None)
    monkeypatch.setattr(chains, "_is_told", lambda *given: True)
    monkeypatch.setattr(chains, "_judged", lambda *given: None)

    def fake(chain: Chain, node: Any, *given: Any) -> None:
        make(chain, node.name, {"train": 2.0})
        measure(chain, node.name, 1.0)

    monkeypatch.setattr(chains, "make", fake)
    chains.run(chain, console)
    line, report = said
    assert line.startswith("time: train 10.0 s, probe 5.0 s, other 0.0 s; together ")
    assert "; peak memory " in line
    assert report.startswith("report: ")
    said.clear()
    chains.run(chain, console)
    assert [text.partition(":")[0] for text in said] == ["nothing to do", "report"]
