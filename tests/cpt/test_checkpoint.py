import json
from pathlib import Path

import pytest

from cpt import checkpoint
from cpt.errors import StoreError
from cpt.manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "sft-1" / "checkpoint"
    place.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "chat_template.jinja", "notes.md"):
        (place / name).write_text(name)
    return place


def test_digests_are_of_what_a_checkpoint_consists_of(folder: Path) -> None:
    found = checkpoint.digests(folder)
    names = ["chat_template.jinja", "config.json", "model.safetensors"]
    assert sorted(found) == [f"checkpoint/{name}" for name in names]
    assert all(len(digest) == 64 for digest in found.values())
    checkpoint.verify(folder, found, "sft-1")


def test_a_changed_or_missing_file_is_named_with_what_to_do(folder: Path) -> None:
    expected = checkpoint.digests(folder)
    (folder / "model.safetensors").write_text("other")
    with pytest.raises(StoreError, match="is damaged") as failed:
        checkpoint.verify(folder, expected, "sft-1")
    assert str(failed.value).startswith(f"{folder / 'model.safetensors'}: ")
    assert f"move {folder.parent} away" in str(failed.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="is missing"):
        checkpoint.verify(folder, expected, "sft-1")


def test_a_model_and_its_tokenizer_are_loaded(tiny_folder: Path) -> None:
    model = checkpoint.load_model(str(tiny_folder), "bfloat16")
    assert str(model.dtype) == "torch.bfloat16"
    assert checkpoint.load_tokenizer(str(tiny_folder)).eos_token == "<|im_end|>"


@pytest.mark.parametrize("damage", ["no folder", "no config", "bad config", "cut weights", "bin"])
def test_what_cannot_be_loaded_names_the_folder(
    tmp_path: Path, tiny_folder: Path, damage: str
) -> None:
    import shutil

    copy = tmp_path / "model"
    if damage != "no folder":
        shutil.copytree(tiny_folder, copy)
    if damage == "no config":
        (copy / "config.json").unlink()
    if damage == "bad config":
        (copy / "config.json").write_text("{")
    if damage == "cut weights":
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    if damage == "bin":
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(StoreError) as failed:
        checkpoint.load_model(str(copy))
    assert str(failed.value).startswith(f"{copy}: ")
    assert "\n" not in str(failed.value)


def test_a_damaged_tokenizer_names_its_folder(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(StoreError) as failed:
        checkpoint.load_tokenizer(str(tmp_path))
    assert str(failed.value).startswith(f"{tmp_path}: has no usable tokenizer")


def test_a_fingerprint_is_of_names_and_contents_wherever_they_lie(
    folder: Path, tmp_path: Path
) -> None:
    import shutil

    first = checkpoint.fingerprint(folder)
    assert checkpoint.fingerprint(shutil.copytree(folder, tmp_path / "elsewhere")) == first
    (folder / "notes.md").write_text("other")
    (folder / "modeling.py").write_text("1")
    assert checkpoint.fingerprint(folder) == first
    assert checkpoint.fingerprint(folder, with_code=True) != first
    (folder / "config.json").write_text("other")
    assert checkpoint.fingerprint(folder) != first


def test_a_stage_is_verified_by_its_manifest(folder: Path) -> None:
    files = checkpoint.digests(folder)
    Manifest(id="sft-1", kind="sft", name="sft", files=files).write(folder.parent)
    checkpoint.verify_stage(folder.parent)
    (folder / "model.safetensors").write_text("other")
    with pytest.raises(StoreError, match="is damaged"):
        checkpoint.verify_stage(folder.parent)


def test_all_that_a_stage_leaves_has_a_digest(folder: Path) -> None:
    stage = folder.parent
    left = (
        "adapter/adapter_model.safetensors",
        "memory/si/omega.safetensors",
        "candidates/step-4/model.safetensors",
        "exemplars.jsonl",
    )
    curves = ("metrics.jsonl", "watch/watch.jsonl")
    passing = ("log.txt", "probes/core.json", "gate/core.json", "trainer/checkpoint-4/optimizer.pt")
    for name in (*left, *curves, *passing):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text(name)
    found = checkpoint.digests_of_stage(stage)
    inside = [f"checkpoint/{path.name}" for path in folder.iterdir()]
    assert sorted(found) == sorted([*left, *curves, *inside])
    Manifest(id="sft-1", kind="sft", name="sft", files=found).write(stage)
    checkpoint.verify_stage(stage)
    for name in curves:  # nothing is built on them: `cpt verify` tells
        (stage / name).write_text("x")
    checkpoint.verify_stage(stage)
    for name in left:
        text = (stage / name).read_text()
        (stage / name).write_text("x" + text[1:])
        with pytest.raises(StoreError, match="is damaged") as failed:
            checkpoint.verify_stage(stage)
        assert str(failed.value).startswith(f"{stage / name}: ")
        (stage / name).write_text(text)


def test_of_a_base_model_that_lies_elsewhere_only_the_model_counts(
    folder: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "base-1"
    stage.mkdir()
    (stage / "checkpoint").symlink_to(folder, target_is_directory=True)
    (folder / "pytorch_model.bin").write_text("not ours")
    found = checkpoint.digests_of_stage(stage)
    assert "checkpoint/model.safetensors" in found
    assert not any(name.endswith((".bin", ".md")) for name in found)
    Manifest(id="base-1", kind="base", name="base", files=found).write(stage)
    checkpoint.verify_stage(stage)
    folder.rename(tmp_path / "gone")
    with pytest.raises(StoreError, match=f"checkpoint links to {folder}, which is gone"):
        checkpoint.verify_stage(stage)


def test_a_part_of_a_stage_is_verified_alone(folder: Path) -> None:
    stage = folder.parent
    (stage / "exemplars.jsonl").write_text("{}")
    checkpoint.verify_part(stage, "exemplars.jsonl")  # no stage of ours
    Manifest(id="sft-1", kind="sft", name="sft", files=checkpoint.digests_of_stage(stage)).write(
        stage
    )
    (folder / "config.json").write_text("other")
    checkpoint.verify_part(stage, "exemplars.jsonl")
    (stage / "exemplars.jsonl").unlink()
    with pytest.raises(StoreError, match=r"exemplars\.jsonl: is missing"):
        checkpoint.verify_part(stage, "exemplars.jsonl")
