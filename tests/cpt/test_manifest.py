import json
from pathlib import Path

import pytest

from cpt.errors import StoreError
from cpt.manifest import VERSION, Ancestor, Manifest, differences, read

WHOLE = Manifest(
    id="sft-1",
    kind="sft",
    name="sft",
    parents={"parent": "base-1"},
    past=(Ancestor("base", "base-1", "base", "../base-1"),),
    hooks=({"name": "kl", "settings": {"beta": 0.1}},),
    data=({"name": "a", "rows": 3},),
    notes=("caf\u00e9",),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    WHOLE.write(tmp_path)
    assert read(tmp_path) == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_no_manifest_is_no_finished_stage(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished stage") as failed:
        read(tmp_path)
    assert str(tmp_path) in str(failed.value)


@pytest.mark.parametrize(
    "text",
    ["", '{"id": "a"', "[]", "3", '{"id": "a"}', '{"id": "a", "kind": "b", "name": "c", "odd": 1}'],
)
def test_a_damaged_manifest_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="is damaged") as failed:
        read(tmp_path)
    assert str(failed.value).startswith(f"{tmp_path / 'manifest.json'}: ")


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="is damaged"):
        read(tmp_path)


def test_a_later_version_says_so_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"version": VERSION + 1, "new": 1}))
    with pytest.raises(StoreError, match="later version"):
        read(tmp_path)


def test_differences_are_leaves_with_their_paths() -> None:
    one = {"a": 1, "b": {"c": [1, {"d": 2}], "e": 1e-5}, "f": [1]}
    other = {"a": 1.0, "b": {"c": [1, {"d": 3}], "e": 0.00001}, "f": [1, 2], "g": "x"}
    assert differences(one, other) == [
        ("b.c.1.d", 2, 3),
        ("f", [1], [1, 2]),
        ("g", None, "x"),
    ]
    assert differences(one, one) == []


def test_files_of_an_earlier_version_were_those_of_the_checkpoint(tmp_path: Path) -> None:
    tree = {"id": "a-1", "kind": "a", "name": "a", "files": {"config.json": "12"}, "version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(tree))
    entry = read(tmp_path)
    assert entry.files == {"checkpoint/config.json": "12"}
    assert entry.checkpoint_files == {"config.json": "12"}
    entry.write(tmp_path)
    assert read(tmp_path) == entry
    later = Manifest("a-1", "a", "a", files={"exemplars.jsonl": "3", "checkpoint/x.json": "4"})
    later.write(tmp_path)
    assert read(tmp_path) == later
    assert later.checkpoint_files == {"x.json": "4"}


def test_a_manifest_of_version_1_is_read_with_what_came_later_empty(tmp_path: Path) -> None:
    WHOLE.write(tmp_path)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    for key in ("how", "machine", "environment", "load"):
        del tree[key]
    (tmp_path / "manifest.json").write_text(json.dumps({**tree, "version": 1}))
    old = read(tmp_path)
    assert old.version == 2  # what is read as a later version is written as one
    assert old.how == old.machine == old.environment == old.load == {}
