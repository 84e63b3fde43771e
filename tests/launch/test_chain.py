"""A stage that runs in a group of processes is locked by the chain, for as long as the group runs."""

import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import CptError
from cpt.manifest import Manifest
from cpt.store import Store
from eval.probe import result_path
from launch import chain as chains
from launch import making
from launch.backend import ROOT
from launch.console import Console
from launch.opening import Chain, open_chain

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"


class Heard(Console):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return open_chain(SMOKE, ["probes=null", "num_processes=2"], tmp_path / "runs", "ddp")


def make(store: Store, stage_id: str) -> None:
    store.partial(stage_id).mkdir(parents=True)
    Manifest(id=stage_id, kind="pretrain", name="pretrain").write(store.partial(stage_id))
    store.publish(stage_id)


def launch(chain: Chain, console: Console) -> None:
    node = chain.plan.node("pretrain")
    making._launch(chain, making._job(chain, node, False), node, console)


def test_the_lock_is_held_while_the_group_runs_and_a_second_run_starts_none(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = chain.plan.node("pretrain")
    begun, may_end, groups = threading.Event(), threading.Event(), list[list[str]]()

    def group(
        command: list[str], variables: Any, file: Path, name: str, lock: int, *_: Any
    ) -> None:
        groups.append(command)
        assert "--job" in command
        assert file.is_file()
        with (chain.store.root / "locks" / node.id).open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # this descriptor is the one that holds it
        begun.set()
        assert may_end.wait(10)
        make(chain.store, node.id)

    monkeypatch.setattr(making, "run_group", group)
    one, other = Heard(), Heard()
    threads = [threading.Thread(target=launch, args=(chain, console)) for console in (one, other)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert len(groups) == 1
    assert one.said == []
    (said,) = other.said
    assert "waiting for it" in said
    assert list((chain.store.root / "jobs").iterdir()) == []


def test_a_group_that_leaves_no_stage_is_an_error(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "run_group", lambda *given: None)
    with pytest.raises(CptError, match="pretrain: its processes ended well, but left no finished"):
        launch(chain, Heard())


def test_a_worker_takes_no_lock_of_its_own(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for the chain that started it, for ever."""
    from cpt import world
    from launch import stage

    node = chain.plan.node("pretrain")
    make(chain.store, node.id)
    job = making._job(chain, node, False)
    monkeypatch.setattr(world, "current", world.World)

    def waits(text: str) -> None:
        raise BlockingIOError(text)

    console = Heard()
    console.say = waits  # type: ignore[method-assign]
    with chain.store.lock(node.id, pytest.fail):
        stage.execute(job, console, is_held=True)
        with pytest.raises(BlockingIOError, match="waiting"):
            stage.execute(job, console)


@pytest.mark.parametrize(("probes", "expected"), [(False, ["merge"]), (True, ["merge", "group"])])
def test_a_merge_needs_no_process_group_but_for_its_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probes: bool, expected: list[str]
) -> None:
    merge = "stages.grpo={kind: merge, from: [sft, dpo], merge: {method: soup}}"
    changes = ["num_processes=2", "stages.dpo.from=pretrain", merge]
    changes += [] if probes else ["probes=null"]
    chain = open_chain(SMOKE, changes, tmp_path / "runs", "ddp")
    node = chain.plan.node("grpo")
    done = []

    def merged(job: Any, console: Console) -> None:
        done.append("merge")
        assert job.id == node.id
        assert {*job.roles} == {"parent.2"}
        with (chain.store.root / "locks" / node.id).open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        make(chain.store, node.id)

    def group(*arguments: Any) -> None:
        done.append("group")
        assert chain.suite
        file = result_path(chain.store.stage(node.id), chain.suite)
        file.parent.mkdir()
        file.write_text("{}")

    monkeypatch.setattr("launch.untrained.make_merge", merged)
    monkeypatch.setattr("launch.quiet.hush_bars", lambda verbose: None)
    monkeypatch.setattr(making, "run_group", group)
    for _ in range(2):  # the second finds all done
        making.make(chain, node, Heard(), False)
        assert done == expected


def result(lost: int) -> dict[str, Any]:
    items = [
        {"id": str(n), "value": float(n >= lost), "weight": 1.0, "text": "", "answer": ""}
        for n in range(40)
    ]
    return {
        "metric": "acc", "group": "language", "higher_is_better": True, "margin": 0.0,
        "value": 1 - lost / 40, "stderr": 0.0, "fingerprint": "f", "items": items,
    }  # fmt: skip


def test_the_stages_of_a_chain_share_the_gate_s_level(tmp_path: Path) -> None:
    chain = open_chain(SMOKE, ["gate.on_regression=stop"], tmp_path / "runs", "single")
    assert chain.suite is not None
    assert len(chain.plan.nodes) == 5
    nodes = [chain.plan.node("base"), chain.plan.node("pretrain")]
    for lost, stops in ((6, False), (7, True)):  # p = 2^-lost for one probe, and four times that
        for node, count in zip(nodes, (0, lost), strict=True):
            file = result_path(chain.store.stage(node.id), chain.suite)
            file.parent.mkdir(parents=True, exist_ok=True)
            tree = {"suite_hash": chain.suite.hash, "probes": {"facts": result(count)}}
            file.write_text(json.dumps(tree))
        assert (chains._judged(chain, nodes[1]) is not None) == stops
