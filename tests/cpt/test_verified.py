"""Files are read once, and again when anything about them changed, or when a person asks for it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cpt import ids, verified
from cpt.verified import Damage, damages, forget, strangers
from tests.spoiled import cut, flip

NAMES = ("checkpoint/model-00001-of-00002.safetensors", "adapter/weights", "exemplars.jsonl")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    place = tmp_path / "runs" / "stages" / "sft-1"
    for name in NAMES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(name.encode() * 100)
    return place


@pytest.fixture
def files(stage: Path) -> dict[str, str]:
    return {name: ids.sha256_file(stage / name) for name in NAMES}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read; files count as settled at once."""
    found: list[str] = []
    sha256_file = ids.sha256_file

    def reading(path: Path) -> str:
        found.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(ids, "sha256_file", reading)
    monkeypatch.setattr(verified, "SETTLED_SECONDS", -1.0)
    return found


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_and_set_the_time_back(path: Path) -> None:
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_another_file(path: Path) -> None:
    """Of the same size and time: only its inode tells."""
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes())
    flip(other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def test_whole_files_are_read_once(stage: Path, files: dict[str, str], read: list[str]) -> None:
    assert damages(stage, files) == []
    assert sorted(read) == sorted(Path(name).name for name in NAMES)
    read.clear()
    assert damages(stage, files) == []
    assert read == []
    assert damages(stage, files, in_full=True) == []
    assert len(read) == len(NAMES)


@pytest.mark.parametrize(
    "damage", [flip, cut, empty, flip_and_set_the_time_back, replace_by_another_file]
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_damaged_file_is_found_at_its_next_use(
    stage: Path,
    files: dict[str, str],
    read: list[str],
    damage: Callable[[Path], None],
    name: str,
    is_known: bool,
) -> None:
    if is_known:
        assert damages(stage, files) == []
    damage(stage / name)
    for _ in range(2):
        (found,) = damages(stage, files)
        assert found.path == stage / name
        assert found.problem.startswith("is damaged: ")
    assert ("it is empty" in found.problem) is (damage is empty)


def test_a_disk_that_loses_bits_is_found_in_full_only(
    stage: Path, files: dict[str, str], read: list[str]
) -> None:
    """Nothing about the file tells: its `stat` is that of the one that was found whole."""
    assert damages(stage, files) == []
    path = stage / NAMES[0]
    flip(path)
    known = stage.parent.parent / "cache" / "verified" / "sft-1.json"
    tree = json.loads(known.read_text())
    status = path.stat()
    tree[NAMES[0]][2:5] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    known.write_text(json.dumps(tree))
    assert damages(stage, files) == []
    assert [found.path for found in damages(stage, files, in_full=True)] == [path]


def test_what_was_written_just_now_is_read_again(
    stage: Path, files: dict[str, str], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "SETTLED_SECONDS", 3600.0)
    for _ in range(2):
        assert damages(stage, files) == []
        assert len(read) == len(NAMES)
        read.clear()
    assert not (stage.parent.parent / "cache").exists()


def test_missing_files_and_names_outside(stage: Path, files: dict[str, str]) -> None:
    (stage / NAMES[1]).unlink()
    odd = {"../sft-2/weights": "1", "/etc/passwd": "1", "candidates/step-4/weights": "1"}
    found = damages(stage, {**files, **odd})
    outside = "is named by the manifest and lies outside of the stage"
    assert found == [
        Damage(stage / NAMES[1], "is missing"),
        Damage(stage / "../sft-2/weights", outside),
        Damage(Path("/etc/passwd"), outside),
    ]
    (stage / "candidates").mkdir()  # until all of them go, none may be missing
    assert len(damages(stage, {**files, **odd})) == 4


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_damaged_cache_costs_a_reading(
    stage: Path, files: dict[str, str], read: list[str], text: str
) -> None:
    assert damages(stage, files) == []
    known = stage.parent.parent / "cache" / "verified" / "sft-1.json"
    known.write_text(text)
    read.clear()
    assert damages(stage, files) == []
    assert len(read) == len(NAMES)
    assert len(json.loads(known.read_text())) == len(NAMES)
    forget(stage)
    assert not known.exists()
    forget(stage)


def test_a_full_disk_costs_a_reading(
    stage: Path, files: dict[str, str], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ids, "atomic_write", full)
    for _ in range(2):
        assert damages(stage, files) == []
    assert len(read) == 2 * len(NAMES)


def test_of_a_stage_by_hand_the_cache_is_the_persons(
    stage: Path, files: dict[str, str], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stage.parent.parent / "own"
    monkeypatch.setenv("CPT_CACHE", str(own))
    moved = stage.rename(stage.parent.parent / "out")
    for _ in range(2):
        assert damages(moved, files) == []
    assert len(read) == len(NAMES)
    assert len(list((own / "verified").iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapter_config.json", "chat_template.jinja", "modeling.py"]
)
def test_what_libraries_would_load_too_is_a_stranger(
    stage: Path, files: dict[str, str], name: str
) -> None:
    """transformers prefers one whole file to the parts of an index, and puts an adapter on top."""
    assert strangers(stage, files) == []
    (stage / "checkpoint" / "README.md").touch()
    (stage / "checkpoint" / "notes.txt").touch()
    assert strangers(stage, files) == []
    (stage / "checkpoint" / name).touch()
    (found,) = strangers(stage, files)
    assert found.path == stage / "checkpoint" / name
    assert strangers(stage, {"exemplars.jsonl": ""}) == []  # of the checkpoint nothing is asked


def test_a_base_model_elsewhere_lies_beside_what_it_wants(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "other.safetensors").touch()
    (stage / "checkpoint").rename(tmp_path / "old")
    (stage / "checkpoint").symlink_to(tmp_path / "model")
    assert strangers(stage, {"checkpoint/model.safetensors": ""}) == []
