"""What an interrupted stage continues as, and in which order a finished one is cleared away."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

import stages.interruption as module
from cpt.errors import StoreError
from cpt.recipe import StageSpec
from cpt.settings import validate
from cpt.world import World
from stages.base import Job
from stages.interruption import LEFTOVERS, check_topology, remove_leftovers
from stages.notes import note_check, read_checks


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    folder = tmp_path / "sft-0.partial"
    folder.mkdir()
    return folder


def begin(partial: Path, job_id: str = "sft-0") -> None:
    spec = validate(StageSpec, {"kind": "sft", "data": {"path": "./a"}}, "s.yaml")
    job = Job("sft", job_id, spec, 17, "x", {}, partial.with_suffix(""), {}, {})
    check_topology(partial, job, World())


def train(partial: Path) -> None:
    (partial / "trained").mkdir()


def test_what_has_trained_continues_on_the_same_rows_only(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(partial)
    monkeypatch.setattr(module, "VERSION", 70)
    begin(partial)  # nothing was trained
    train(partial)
    begin(partial)
    monkeypatch.setattr(module, "VERSION", 71)
    with pytest.raises(StoreError, match=r"began on rows of version 70 .* of version 71; use the"):
        begin(partial)
    old = json.loads((partial / "topology.json").read_text())
    del old["rows"]  # as before it was written down
    (partial / "topology.json").write_text(json.dumps(old))
    with pytest.raises(StoreError, match="began on rows of version 1 "):
        begin(partial)


def test_another_stage_by_hand_takes_no_checks_of_the_one_before(partial: Path) -> None:
    begin(partial)
    note_check(partial, "eos_rate_before", 0.5)
    begin(partial)
    assert read_checks(partial) == {"eos_rate_before": 0.5}
    begin(partial, "sft-1")
    assert read_checks(partial) == {}


def fill(partial: Path) -> None:
    for name in LEFTOVERS:
        if name.endswith(".json"):
            (partial / name).write_text("{}")
        else:
            (partial / name / "inner").mkdir(parents=True)


def test_the_data_go_last_so_that_nothing_is_tokenised_twice(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(partial)
    remove = module._remove

    def killed(path: Path) -> None:
        if path.name == "data.json":
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(module, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_leftovers(partial)
    assert {path.name for path in partial.iterdir()} == {"data", "data.json"}


def test_what_is_still_mapped_on_nfs_is_no_obstacle(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file that is removed while it is mapped stays, under another name, in its folder."""
    fill(partial)
    remove = os.rmdir

    def refuse(path: Any, **more: Any) -> None:
        if Path(path).name == "data":
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        remove(path, **more)

    monkeypatch.setattr(os, "rmdir", refuse)
    remove_leftovers(partial)
    assert [path.name for path in partial.rglob("*")] == ["data"]
