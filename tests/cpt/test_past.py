import json
from dataclasses import replace
from pathlib import Path

import pytest

from cpt import past
from cpt.checkpoint import digests_of_stage
from cpt.errors import HookError, StoreError
from cpt.manifest import Ancestor, Manifest, read
from cpt.past import Past, PastStage

NAMES = ("base", "pretrain", "sft")


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    root = tmp_path / "runs" / "stages"
    for number, name in enumerate(NAMES):
        folder = root / f"{name}-1"
        (folder / "checkpoint").mkdir(parents=True)
        before = tuple(Ancestor(n, f"{n}-1", n, f"../{n}-1") for n in NAMES[:number])
        Manifest(id=f"{name}-1", kind=name, name=name, past=before).write(folder)
        if name != "base":
            rows = [{"text": f"{name} {n}"} for n in range(3)]
            (folder / past.EXEMPLARS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_the_past_is_the_line_of_ancestors_oldest_first(stages: Path) -> None:
    before = past.of_folder(stages / "sft-1")
    assert [stage.name for stage in before] == list(NAMES)
    assert len(before) == 3
    assert before[0].kind == "base"
    assert before[1].checkpoint == str(stages / "pretrain-1" / "checkpoint")


def test_the_past_survives_a_move_of_the_store_and_links(stages: Path) -> None:
    moved = stages.parent.parent / "elsewhere" / "runs"
    moved.parent.mkdir()
    stages.parent.rename(moved)
    link = moved / "chains" / "a" / "2-sft"
    link.parent.mkdir(parents=True)
    link.symlink_to(Path("..", "..", "stages", "sft-1"))
    for folder in (moved / "stages" / "sft-1", link):
        before = past.of_folder(folder)
        assert before[1].rows() == [{"text": f"pretrain {n}"} for n in range(3)]


def test_a_checkpoint_folder_of_a_stage_has_the_stages_past(stages: Path) -> None:
    before = past.of_checkpoint(str(stages / "sft-1" / "checkpoint"))
    assert [stage.name for stage in before] == list(NAMES)


def test_a_bare_checkpoint_is_a_past_of_one_without_rows(tmp_path: Path) -> None:
    for name in ("org/model", str(tmp_path)):
        (only,) = past.of_checkpoint(name)
        assert (only.name, only.kind, only.checkpoint) == ("base", "base", name)
        assert only.rows() == []
        assert only.adapter is None
    assert past.of_folder(tmp_path) == past.of_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("of", "names"),
    [
        ("previous", ["sft"]),
        ("base", ["base"]),
        ("pretrain", ["pretrain"]),
        ("all", ["pretrain", "sft"]),
        (["pretrain", "previous"], ["pretrain", "sft"]),
    ],
)
def test_stages_are_chosen_by_name(stages: Path, of: str | list[str], names: list[str]) -> None:
    assert [stage.name for stage in past.of_folder(stages / "sft-1").select(of)] == names


def test_all_of_a_past_of_one_is_the_base(stages: Path) -> None:
    assert [stage.name for stage in past.of_folder(stages / "base-1").select("all")] == ["base"]


def test_an_unknown_stage_names_the_nearest(stages: Path) -> None:
    with pytest.raises(HookError, match="no earlier stage 'pretran'; did you mean 'pretrain'"):
        past.of_folder(stages / "sft-1").select("pretran")


def test_rows_are_read_up_to_a_number(stages: Path) -> None:
    stage = past.of_folder(stages / "sft-1")[2]
    assert stage.rows(2) == [{"text": "sft 0"}, {"text": "sft 1"}]
    assert len(stage.rows()) == 3


def test_damaged_exemplars_name_their_file(stages: Path) -> None:
    file = stages / "sft-1" / past.EXEMPLARS
    file.write_text('{"text": "a"}\n{"te')
    with pytest.raises(StoreError, match="is damaged") as failed:
        past.of_folder(stages / "sft-1")[2].rows()
    assert str(file) in str(failed.value)


def test_all_is_every_stage_but_the_base_each_once() -> None:
    def stage(name: str, kind: str) -> PastStage:
        return PastStage(name, name, kind, None, name)

    base, one, two = stage("base", "base"), stage("one", "sft"), stage("two", "sft")
    assert Past((base, one, two)).select("all") == (one, two)
    # By hand on a bare folder the base is no stage of ours.
    assert Past((one, two)).select("all") == (one, two)
    assert Past((base,)).select("all") == (base,)
    assert Past((base, one, two)).select(["previous", "two", "one"]) == (two, one)


def test_a_folder_without_a_stage_is_what_lies_in_it(tmp_path: Path) -> None:
    """Not its name: what was measured of other weights would be taken for these."""
    (tmp_path / "config.json").write_text("{}")
    (first,) = past.of_checkpoint(str(tmp_path))
    before = first.identity
    assert before == first.identity
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    assert first.identity != before
    (named,) = past.of_checkpoint("org/model")
    assert named.identity == ["org/model"]


@pytest.mark.parametrize("name", [past.EXEMPLARS, "adapter/weights", "memory/si/omega"])
def test_what_a_stage_left_is_checked_before_it_is_used(stages: Path, name: str) -> None:
    folder = stages / "sft-1"
    for left in ("adapter/weights", "memory/si/omega"):
        (folder / left).parent.mkdir(parents=True)
        (folder / left).write_text(left)
    entry = read(folder)
    replace(entry, files=digests_of_stage(folder)).write(folder)

    def use() -> object:
        stage = past.of_folder(folder)[-1]
        return stage.rows(), stage.adapter, stage.memory("si")

    assert use() == (
        [{"text": f"sft {n}"} for n in range(3)],
        folder / "adapter",
        folder / "memory/si",
    )
    (folder / name).unlink()
    with pytest.raises(StoreError, match=r"is missing; move .*sft-1 away and run again"):
        use()
