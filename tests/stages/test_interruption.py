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
from cpt.store import MARK, mark_complete
from cpt.world import World
from stages.base import Job
from stages.interruption import (
    LEFTOVERS,
    check_topology,
    newest_checkpoint,
    remove_leftovers,
)
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


def checkpoint(partial: Path, step: int) -> Path:
    folder = partial / "trainer" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).write_text(f"{name} at {step}")
    mark_complete(folder)
    return folder


def flip(file: Path) -> None:
    """The same size, another byte."""
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(partial: Path) -> None:
    older, newer = checkpoint(partial, 4), checkpoint(partial, 10)
    said = list[str]()
    assert newest_checkpoint(partial, World(), said.append) == str(newer)
    assert said == []
    flip(newer / "optimizer.pt")
    assert newest_checkpoint(partial, World(), said.append) == str(older)
    assert said == [
        "checkpoint-10/optimizer.pt of the trainer is damaged, and is not continued from"
    ]
    assert not newer.exists()
    (older / "model.safetensors").unlink()
    assert newest_checkpoint(partial, World(), said.append) is None
    assert said[1:] == [
        "checkpoint-4/model.safetensors of the trainer is damaged, and is not continued from"
    ]
    assert [*(partial / "trainer").iterdir()] == []


def test_only_the_newest_checkpoint_is_read(partial: Path) -> None:
    """A checkpoint of a large model takes minutes to read."""
    older, newer = checkpoint(partial, 4), checkpoint(partial, 10)
    flip(older / "optimizer.pt")
    said = list[str]()
    assert newest_checkpoint(partial, World(), said.append) == str(newer)
    assert (said, older.is_dir()) == ([], True)


@pytest.mark.parametrize("text", ["[]", "7", "{", '{"optimizer.pt": []}', '{"optimizer.pt": "x"}'])
def test_a_damaged_mark_vouches_for_nothing(partial: Path, text: str) -> None:
    older, newer = checkpoint(partial, 4), checkpoint(partial, 10)
    (newer / MARK).write_text(text)
    said = list[str]()
    assert newest_checkpoint(partial, World(), said.append) == str(older)
    (line,) = said
    assert line.startswith("checkpoint-10/")


def test_half_a_checkpoint_is_removed_without_a_word(partial: Path) -> None:
    older = checkpoint(partial, 4)
    (partial / "trainer" / "checkpoint-10").mkdir()
    said = list[str]()
    assert newest_checkpoint(partial, World(), said.append) == str(older)
    assert said == []
    assert [*(partial / "trainer").iterdir()] == [older]
