"""No space at each writer of a chain: one line, and the same command brings the chain to the same end."""

from pathlib import Path
from typing import Any

import pytest

from cpt import ids
from cpt.store import MARK, Store, complete_checkpoints, mark_complete, publish, replacing

FULL = """
import errno, os
from pathlib import Path

def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
"""
#: Folders that become whole by one rename fail where the disk is asked whether it has them.
AT_SYNC = """
import cpt.store, cpt.checkpoint

sync = cpt.store.sync

def failing(folder):
    if folder.name.startswith({name!r}) and folder.name.endswith({end!r}):
        full()
    sync(folder)

cpt.store.sync = cpt.checkpoint.sync = failing
"""
#: Files that are replaced as a whole fail where the new one is written.
AT_WRITING = """
replace = Path.replace

def failing(self, target):
    if Path(target).name == {name!r}:
        full()
    return replace(self, target)

Path.replace = failing
"""
#: Files that grow fail when they are opened to grow.
AT_GROWING = """
opened = Path.open

def failing(self, mode="r", *args, **kwargs):
    if self.name == {name!r} and mode == "a":
        full()
    return opened(self, mode, *args, **kwargs)

Path.open = failing
"""


@pytest.mark.chain
class TestOfAChain:
    @pytest.mark.parametrize(
        ("code", "until"),
        [
            (AT_SYNC.format(name="data", end=".partial"), "pretrain"),
            (AT_SYNC.format(name="checkpoint-", end=""), "pretrain"),
            (AT_SYNC.format(name="trained", end=".partial"), "pretrain"),
            (AT_SYNC.format(name="checkpoint", end="t.partial"), "pretrain"),
            (AT_SYNC.format(name="pretrain-", end=".partial"), "pretrain"),
            (AT_WRITING.format(name="manifest.json"), "pretrain"),
            (AT_WRITING.format(name="chain.json"), "pretrain"),
            (AT_WRITING.format(name="report.html"), "pretrain"),
            (AT_GROWING.format(name="metrics.jsonl"), "pretrain"),
            (AT_GROWING.format(name="log.txt"), "pretrain"),
            (AT_SYNC.format(name="adapter", end=".partial"), "dpo"),
            (AT_SYNC.format(name="base-", end=".partial"), "base"),
        ],
        ids=[
            *(
                "data",
                "trainer",
                "trained",
                "checkpoint",
                "published",
                "manifest",
                "chain",
                "report",
            ),
            *("curves", "log", "adapter", "base"),
        ],
    )
    def test_the_same_command_brings_it_to_the_same_end(
        self, finished: Any, processes: Any, tmp_path: Path, code: str, until: str
    ) -> None:
        before = {"base": None, "pretrain": "base", "dpo": "sft"}[until]
        runs = finished.copy(tmp_path / "runs", until=before) if before else tmp_path / "runs"
        ended = processes.smoke(runs, "--until", until, code=FULL + code)
        assert ended.code == 1, ended.output
        assert "Traceback" not in ended.output, ended.output
        assert "the disk is full" in ended.output, ended.output
        assert "same command continues" in ended.output, ended.output
        again = processes.smoke(runs, "--until", until)
        assert again.code == 0, again.output
        finished.assert_equal(runs, until)
        assert not list((runs / "stages").glob("*.*"))


def full(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    with replacing(folder) as partial:
        (partial / "a").write_text("1")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"), replacing(folder) as partial:
            (partial / "a").write_text("2")
    assert (folder / "a").read_text() == "1"
    with replacing(folder) as partial:
        assert list(partial.iterdir()) == []
        (partial / "a").write_text("3")
    assert (folder / "a").read_text() == "3"


def test_a_checkpoint_of_the_trainer_gets_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    (folder / "optimizer.pt").write_text("states")
    for place in ("os.fsync", "cpt.ids.atomic_write"):
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            with pytest.raises(OSError, match="No space"):
                mark_complete(folder)
        assert not (folder / MARK).exists()
        assert complete_checkpoints(tmp_path) == []
    mark_complete(folder)
    assert complete_checkpoints(tmp_path) == [(4, folder)]


def test_a_stage_that_cannot_be_flushed_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, final = tmp_path / "sft-1.partial", tmp_path / "sft-1"
    partial.mkdir()
    (partial / "manifest.json").write_text("{}")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            publish(partial, final)
    assert not final.exists()
    assert publish(partial, final).is_dir()


def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    folder = store.link_chain("a", [], {"name": "a"})
    for place in ("os.fsync", "pathlib.Path.replace"):
        before = {path.name: path.read_text() for path in folder.iterdir()}
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            with pytest.raises(OSError, match="No space"):
                store.link_chain("a", [], {"name": "b"})
            with pytest.raises(OSError, match="No space"):
                ids.atomic_write(folder / "report.md", "new")
        assert {path.name: path.read_text() for path in folder.iterdir()} == before
