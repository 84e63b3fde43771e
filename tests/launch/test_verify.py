"""`cpt verify`: each damaged file is one line that says where, what and what instead."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cpt.checkpoint import digests_of_stage, verify_part, verify_stage
from cpt.errors import RecipeError, StoreError
from cpt.manifest import Manifest
from cpt.store import MARK, Store, mark_complete
from launch.verify import verify
from tests.spoiled import cut, flip

LEFT = {
    "checkpoint/model-00001-of-00002.safetensors": "is made anew",
    "checkpoint/config.json": "is made anew",
    "adapter/adapter_model.safetensors": "is made anew",
    "memory/si/omega.safetensors": "is made anew",
    "candidates/step-4/model.safetensors": "is made anew",
    "exemplars.jsonl": "is made anew",
    "metrics.jsonl": "only the curves in reports are made of it",
    "watch/watch.jsonl": "only the curves in reports are made of it",
}


def make(runs: Path, stage_id: str) -> Path:
    store = Store(runs)
    partial = store.partial(stage_id)
    for name in (*LEFT, "probes/core-1.json"):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text(json.dumps({"text": f"{name} of {stage_id}"}))
    kind = stage_id.partition("-")[0]
    files = digests_of_stage(partial)
    Manifest(id=stage_id, kind=kind, name=kind, files=files).write(partial)
    return store.publish(stage_id)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    nodes = []
    for stage_id in ("base-1", "sft-1", "dpo-1"):
        make(place, stage_id)
        nodes.append({"name": stage_id.partition("-")[0], "id": stage_id})
    head = {"name": "a", "seed": 3, "recipe_path": "r.yaml"}
    Store(place).link_chain("a", nodes[:2], head)
    return place


def verified(runs: Path, *names: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    return verify(names, runs, lines.append), lines


def test_a_whole_store_is_said_to_be_so(runs: Path) -> None:
    code, lines = verified(runs)
    assert code == 0
    assert [line.partition(":")[0] for line in lines[:3]] == ["base-1", "dpo-1", "sft-1"]
    assert all(
        f": {len(LEFT) + 1} files, " in line and line.endswith(": whole") for line in lines[:3]
    )
    assert lines[3:] == ["3 stages: all is what was written"]
    assert verified(runs, "a")[1][-1] == "2 stages: all is what was written"
    link = str(runs / "chains" / "a" / "1-sft")
    assert verified(runs, "dpo-1", link, "dpo-1")[1][-1] == "2 stages: all is what was written"


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", LEFT)
def test_each_damaged_file_has_its_line(
    runs: Path, name: str, damage: Callable[[Path], None]
) -> None:
    path = runs / "stages" / "sft-1" / name
    damage(path)
    for names in ([], ["a"], ["sft-1"], [str(path.parents[len(Path(name).parts) - 1])]):
        code, lines = verified(runs, *names)
        assert code == 1
        (line,) = [line for line in lines if line.startswith(f"{path}: ")]
        assert ("is missing" if damage is Path.unlink else "is damaged") in line
        assert LEFT[name] in line
        assert lines[-1].endswith("stages: 1 damaged")
    assert verified(runs, "dpo-1", "base-1")[0] == 0


def test_a_file_that_a_stage_did_not_leave_is_named_and_not_built_on(runs: Path) -> None:
    path = runs / "stages" / "sft-1" / "checkpoint" / "adapter_config.json"
    path.write_text("{}")
    code, lines = verified(runs, "sft-1")
    assert code == 1
    assert (
        f"{path}: is not of the stage, and libraries load it with the model: remove this file"
        in lines
    )
    with pytest.raises(StoreError, match=r"adapter_config\.json: is not of the stage"):
        verify_stage(path.parents[1])
    with pytest.raises(StoreError, match=r"adapter_config\.json: is not of the stage"):
        verify_part(path.parents[1], "checkpoint")
    verify_part(path.parents[1], "exemplars.jsonl")


def test_candidates_that_a_verdict_removed_are_not_missed(runs: Path) -> None:
    shutil.rmtree(runs / "stages" / "sft-1" / "candidates")
    assert verified(runs)[0] == 0


def test_several_damages_are_several_lines(runs: Path) -> None:
    for name in ("checkpoint/config.json", "exemplars.jsonl"):
        flip(runs / "stages" / "sft-1" / name)
    (runs / "stages" / "dpo-1" / "probes" / "core-1.json").write_text('{"half')
    (runs / "stages" / "base-1" / "manifest.json").write_text("{")
    code, lines = verified(runs)
    assert code == 1
    assert lines[-1] == "3 stages: 4 damaged"
    assert [line.partition(": ")[2].partition(" (")[0] for line in lines[3:7]] == [
        "is damaged",
        "is damaged",
        *[line.partition(": ")[2].partition(" (")[0] for line in lines[5:7]],
    ]
    assert sum("core-1.json: is damaged (" in line for line in lines) == 1
    assert sum("remove it, and cpt run makes it anew" in line for line in lines) == 1


def test_a_lost_link_and_a_damaged_chain_are_named(runs: Path, tmp_path: Path) -> None:
    (runs / "stages" / "sft-1").rename(tmp_path / "away")
    for names in ([], ["a"]):
        code, lines = verified(runs, *names)
        assert code == 1
        assert any(
            "1-sft: links to ../../stages/sft-1, which is gone; cpt run" in line for line in lines
        )
    (runs / "chains" / "a" / "chain.json").write_text("{")
    code, lines = verified(runs)
    assert code == 1
    assert any("chain.json: is damaged" in line for line in lines)


def test_a_base_model_whose_folder_is_gone(tmp_path: Path) -> None:
    model, stage = tmp_path / "model", tmp_path / "runs" / "stages" / "base-1"
    for folder in (model, stage):
        folder.mkdir(parents=True)
    (model / "model.safetensors").write_text("weights")
    (stage / "checkpoint").symlink_to(model)
    Manifest(id="base-1", kind="base", name="base", files=digests_of_stage(stage)).write(stage)
    assert verified(tmp_path / "runs")[0] == 0
    shutil.rmtree(model)
    code, lines = verified(tmp_path / "runs")
    assert code == 1
    assert f"is missing: checkpoint links to {model}, which is gone; move {stage} away" in lines[1]


def test_checkpoints_of_the_trainer_are_read_too(runs: Path) -> None:
    folder = runs / "stages" / "grpo-1.partial" / "trainer" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_text("states")
    mark_complete(folder)
    unmarked = folder.with_name("checkpoint-8")
    unmarked.mkdir()  # being written
    assert verified(runs) == (0, verified(runs)[1])
    assert "grpo-1.partial: 2 files" in "\n".join(verified(runs)[1])
    flip(folder / "optimizer.pt")
    code, lines = verified(runs)
    assert code == 1
    assert any(
        f"{folder / 'optimizer.pt'}: is damaged" in line and "continues" in line for line in lines
    )
    assert (folder / MARK).is_file()


def test_what_is_no_stage_is_refused(runs: Path) -> None:
    with pytest.raises(RecipeError, match="no chain 'sft-2'"):
        verified(runs, "sft-2")
    assert verified(runs / "none")[1] == ["0 stages: all is what was written"]
