"""What may continue an interrupted stage: the same stage on the same topology."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import StoreError
from cpt.world import World
from stages.interruption import check_topology


def job(**changes: Any) -> Any:
    return SimpleNamespace(**{"id": "sft-1", "backend": "ddp", "deterministic": False, **changes})


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """Of a stage that began on two processes, and has not trained yet."""
    folder = tmp_path / "sft-1.partial"
    folder.mkdir()
    check_topology(folder, job(), World(size=2))
    return folder


def test_before_the_first_checkpoint_any_topology_may_go_on(partial: Path) -> None:
    check_topology(partial, job(backend="single"), World())
    began = json.loads((partial / "topology.json").read_text())
    assert (began["backend"], began["size"]) == ("single", 1)


def test_it_does_not_become_deterministic_on_the_way(partial: Path) -> None:
    check_topology(partial, job(deterministic=True), World(size=2))  # nothing is trained yet
    (partial / "checkpoint").mkdir()
    check_topology(partial, job(deterministic=True), World(size=2))
    with pytest.raises(
        StoreError, match=r"began with `deterministic` and would continue without it"
    ):
        check_topology(partial, job(), World(size=2))
    # Of a version that had no such mode.
    began = json.loads((partial / "topology.json").read_text())
    del began["deterministic"]
    (partial / "topology.json").write_text(json.dumps(began))
    check_topology(partial, job(), World(size=2))


@pytest.mark.parametrize("trace", ["trainer/checkpoint-2/COMPLETE", "trained/x", "checkpoint/x"])
def test_behind_it_only_the_same_does(partial: Path, trace: str) -> None:
    (partial / trace).parent.mkdir(parents=True)
    (partial / trace).touch()
    check_topology(partial, job(), World(size=2))
    before = (partial / "topology.json").read_text()
    for backend, size in (("single", 1), ("ddp", 4), ("zero2", 2)):
        with pytest.raises(StoreError) as failed:
            check_topology(partial, job(backend=backend), replace(World(), size=size))
        assert str(failed.value) == (
            f"sft-1.partial: began on ddp with 2 processes and would continue on {backend} with {size}; "
            f"use the same, or --restart to begin anew"
        )
    with pytest.raises(
        StoreError, match=r"is what sft-1 left .*and this stage is sft-2; remove it"
    ):
        check_topology(partial, job(id="sft-2"), World(size=2))
    assert (partial / "topology.json").read_text() == before


def test_a_checkpoint_without_our_mark_binds_nothing(partial: Path) -> None:
    (partial / "trainer" / "checkpoint-2").mkdir(parents=True)
    check_topology(partial, job(backend="single"), World())
