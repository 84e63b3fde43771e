import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cpt.errors import StoreError
from cpt.manifest import Manifest
from cpt.store import (
    MARK,
    Store,
    complete_checkpoints,
    damaged_files,
    mark_complete,
    publish,
    replacing,
)

ID = "sft-0123abcd"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def make(store: Store, stage_id: str = ID, text: str = "") -> Path:
    folder = store.partial(stage_id)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(text)
    Manifest(id=stage_id, kind="sft", name="sft").write(folder)
    return folder


def test_publishing_renames_the_partial_folder(store: Store) -> None:
    make(store)
    assert not store.is_done(ID)
    assert store.publish(ID) == store.stage(ID)
    assert store.is_done(ID)
    assert not store.partial(ID).exists()


def test_without_a_manifest_nothing_is_published(store: Store) -> None:
    store.partial(ID).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"has no manifest\.json"):
        store.publish(ID)
    assert store.partial(ID).is_dir()


def test_a_broken_folder_of_the_same_name_is_moved_aside(store: Store) -> None:
    for number in range(2):
        broken = store.stage(ID)
        broken.mkdir(parents=True)
        (broken / "half").write_text(str(number))
        make(store, text="new")
        store.publish(ID)
        assert (store.stage(ID) / "weights").read_text() == "new"
        store.stage(ID).rename(store.root / f"done {number}")
    aside = sorted(path.name for path in store.stages.iterdir())
    assert len(aside) == 2
    assert all(name.startswith(f"{ID}.broken-") for name in aside)


def test_status_in_words(store: Store) -> None:
    words = [store.status(ID)]
    partial = store.partial(ID)
    (partial / "trainer" / "checkpoint-4").mkdir(parents=True)
    words.append(store.status(ID))
    (partial / "trainer" / "checkpoint-4" / MARK).touch()
    (partial / "trainer" / "checkpoint-8").mkdir()
    words.append(store.status(ID))
    (partial / "trained").mkdir()
    words.append(store.status(ID))
    Manifest(id=ID, kind="sft", name="sft").write(partial)
    store.publish(ID)
    words.append(store.status(ID))
    assert words == [
        "to do",
        "interrupted",
        "interrupted at step 4",
        "trained, to be published",
        "done",
    ]


def test_only_marked_checkpoints_count_in_order_of_steps(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-11", "checkpoint-x", "other"):
        (tmp_path / name).mkdir()
        if name != "checkpoint-11":
            (tmp_path / name / MARK).touch()
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [9, 10]
    assert complete_checkpoints(tmp_path / "none") == []


HOLD = """
import sys
from pathlib import Path
from cpt.store import Store
with Store(Path(sys.argv[1])).lock(sys.argv[2], print):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(store: Store, stage_id: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), stage_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kill", [False, True])
def test_a_second_holder_waits_until_the_first_ends_however_it_ends(
    store: Store, kill: bool
) -> None:
    process = hold(store, ID)
    said: list[str] = []
    waits, has = threading.Event(), threading.Event()

    def waiting(text: str) -> None:
        said.append(text)
        waits.set()

    def second() -> None:
        with store.lock(ID, waiting):
            has.set()

    thread = threading.Thread(target=second)
    thread.start()
    try:
        assert waits.wait(10)
        assert not has.wait(0.2)
    finally:
        process.kill() if kill else process.communicate("\n")
        process.wait()
    assert has.wait(10)
    thread.join(10)
    (text,) = said
    assert ID in text
    assert f"process {process.pid} on " in text


def test_other_stages_and_free_ones_are_held_at_once(store: Store) -> None:
    process = hold(store, "dpo-1")
    with store.lock(ID, pytest.fail):
        pass
    with store.lock(ID, pytest.fail):
        pass
    process.communicate("\n")


def test_links_are_relative_and_survive_a_move(store: Store) -> None:
    for stage_id in ("base-1", "sft-1"):
        make(store, stage_id, stage_id)
        store.publish(stage_id)
    nodes = [{"name": "base", "id": "base-1"}, {"name": "sft", "id": "sft-1"}]
    store.link_chain("a", [*nodes, {"name": "dpo", "id": "dpo-1"}], {"name": "a", "seed": 3})
    moved = store.root.rename(store.root.with_name("elsewhere"))
    folder = moved / "chains" / "a"
    assert (folder / "1-sft" / "weights").read_text() == "sft-1"
    assert sorted(path.name for path in folder.iterdir()) == ["0-base", "1-sft", "chain.json"]
    tree = json.loads((folder / "chain.json").read_text())
    assert (tree["seed"], len(tree["nodes"])) == (3, 3)


def test_old_links_go_and_changed_ones_follow(store: Store) -> None:
    for stage_id in ("sft-1", "sft-2", "dpo-1"):
        make(store, stage_id, stage_id)
        store.publish(stage_id)
    store.link_chain("a", [{"name": "sft", "id": "sft-1"}, {"name": "dpo", "id": "dpo-1"}], {})
    folder = store.link_chain("a", [{"name": "sft", "id": "sft-2"}], {})
    (folder / "report.md").write_text("kept")
    folder = store.link_chain("a", [{"name": "sft", "id": "sft-2"}], {})
    assert sorted(path.name for path in folder.iterdir()) == ["0-sft", "chain.json", "report.md"]
    assert (folder / "0-sft" / "weights").read_text() == "sft-2"


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    with replacing(folder) as partial:
        (partial / "a").write_text("1")

    def fail() -> None:
        with replacing(folder) as partial:
            (partial / "b").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in folder.iterdir()] == ["a"]
    with replacing(folder) as partial:
        assert list(partial.iterdir()) == []
        (partial / "c").write_text("3")
    assert [path.name for path in folder.iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed and renamed, in order: names, with the marks that were there at that time."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def flush(descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(f"{place.name} marked" if (place / MARK).exists() else place.name)
        fsync(descriptor)

    def renaming(self: Path, target: Path) -> Path:
        done.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "rename", renaming)
    return done


def checkpoint(folder: Path) -> Path:
    (folder / "global_step4").mkdir(parents=True)
    (folder / "weights").write_text("1")
    (folder / "global_step4" / "optimizer").write_text("2")
    (folder / "elsewhere").symlink_to("nowhere")
    return folder


def test_what_a_mark_vouches_for_is_on_disk_before_it(tmp_path: Path, synced: list[str]) -> None:
    folder = checkpoint(tmp_path / "trainer" / "checkpoint-4")
    mark_complete(folder)
    assert sorted(synced[:3]) == ["global_step4", "optimizer", "weights"]
    mark = synced.pop(4)  # under another name, until all of it is on disk
    assert mark.startswith(f".COMPLETE.{os.getpid()}-")
    assert synced[3:] == ["checkpoint-4", "checkpoint-4 marked", "trainer"]
    assert complete_checkpoints(tmp_path / "trainer") == [(4, folder)]


def test_a_stage_is_on_disk_before_it_has_its_name(tmp_path: Path, synced: list[str]) -> None:
    folder = checkpoint(tmp_path / "sft.partial")
    (folder / "manifest.json").write_text("{}")
    publish(folder, tmp_path / "sft")
    assert sorted(synced[:4]) == ["global_step4", "manifest.json", "optimizer", "weights"]
    assert synced[4:] == ["sft.partial", "sft.partial -> sft", tmp_path.name]


def test_a_replaced_folder_is_on_disk_before_the_old_one_goes(
    tmp_path: Path, synced: list[str]
) -> None:
    with replacing(tmp_path / "trained") as partial:
        (partial / "weights").write_text("1")
    assert synced == ["weights", "trained.partial", "trained.partial -> trained", tmp_path.name]


def test_a_mark_vouches_for_the_size_of_every_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trainer" / "checkpoint-4")
    mark_complete(folder)
    whole = [(4, folder)]
    assert complete_checkpoints(tmp_path / "trainer") == whole
    content = (folder / "weights").read_bytes()
    (folder / "weights").write_bytes(content + b"x")
    assert complete_checkpoints(tmp_path / "trainer") == []
    (folder / "weights").unlink()
    assert complete_checkpoints(tmp_path / "trainer") == []
    (folder / "weights").write_bytes(content)
    (folder / "later").touch()  # of another process
    assert complete_checkpoints(tmp_path / "trainer") == whole
    (folder / MARK).write_text("{")
    assert complete_checkpoints(tmp_path / "trainer") == []
    (folder / MARK).write_text("")  # an earlier version's
    assert complete_checkpoints(tmp_path / "trainer") == whole


def test_a_mark_vouches_for_every_bit(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trainer" / "checkpoint-4")
    mark_complete(folder)
    assert damaged_files(folder) == []
    optimizer = folder / "global_step4" / "optimizer"
    optimizer.write_text("3")  # of the same size
    assert complete_checkpoints(tmp_path / "trainer") == [(4, folder)]
    assert damaged_files(folder) == [optimizer]
    (folder / "weights").unlink()
    assert sorted(damaged_files(folder)) == [optimizer, folder / "weights"]


def test_marks_of_earlier_versions_hold_sizes_or_nothing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "trainer" / "checkpoint-4")
    for text in ("", json.dumps({"weights": 1})):
        (folder / MARK).write_text(text)
        assert complete_checkpoints(tmp_path / "trainer") == [(4, folder)]
        assert damaged_files(folder) == []
    for text in ("{", '{"weights": null}', "[1]"):
        (folder / MARK).write_text(text)
        assert complete_checkpoints(tmp_path / "trainer") == []
        assert damaged_files(folder) == [folder / MARK]


def test_who_makes_a_stage_is_known_while_it_does(store: Store) -> None:
    assert store.holder(ID) is None
    with store.lock(ID, pytest.fail):
        owner = store.holder(ID)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert store.holder(ID) is None
    process = hold(store, ID)
    process.kill()
    process.wait()
    assert store.holder(ID) is None
