import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import StoreError
from cpt.safe_weights import ADAPTER, check_adapter, check_own, check_weights
from tests.spoiled import Evil


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def plant(file: Path, mark: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(Evil(mark)))


def test_the_planted_pickle_would_work(tmp_path: Path, mark: Path) -> None:
    plant(tmp_path / "a.bin", mark)
    pickle.loads((tmp_path / "a.bin").read_bytes())
    assert mark.is_dir()


def test_pickled_weights_are_refused(tmp_path: Path, mark: Path) -> None:
    plant(tmp_path / "pytorch_model.bin", mark)
    with pytest.raises(StoreError, match=r"pytorch_model\.bin: pickled weights are not loaded"):
        check_weights(tmp_path)
    (tmp_path / "model.safetensors").touch()
    check_weights(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "", None, "x.bin"]
)
def test_an_index_stays_in_its_folder(tmp_path: Path, name: Any) -> None:
    tree = {"weight_map": {"a": "model-1.safetensors", "b": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(tree))
    with pytest.raises(StoreError, match=r"does not stay below|is no \.safetensors file"):
        check_weights(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(StoreError, match=r"index\.json: is damaged"):
        check_weights(tmp_path)


def test_an_adapter_is_read_from_safetensors_only(tmp_path: Path, mark: Path) -> None:
    with pytest.raises(StoreError, match="has no weights"):
        check_adapter(tmp_path)
    plant(tmp_path / "adapter_model.bin", mark)
    with pytest.raises(StoreError, match=r"has adapter_model\.bin, which can run any code"):
        check_adapter(str(tmp_path))
    (tmp_path / ADAPTER).touch()
    assert check_adapter(tmp_path) == str(tmp_path)
    assert not mark.exists()


@pytest.fixture
def trained(tmp_path: Path, mark: Path) -> Path:
    folder = tmp_path / "sft-1.partial" / "trainer" / "checkpoint-4"
    plant(folder / "optimizer.pt", mark)
    plant(folder / "global_step4" / "state.pt", mark)
    return folder


def test_what_this_user_left_is_continued(trained: Path) -> None:
    assert check_own(trained) == str(trained)


@pytest.mark.parametrize("part", ["", "optimizer.pt", "global_step4", "global_step4/state.pt"])
def test_what_anyone_could_have_written_is_not(trained: Path, part: str) -> None:
    (trained / part).chmod(0o777)
    with pytest.raises(StoreError, match=r"can be written by anyone; .*chmod.*--restart"):
        check_own(trained)


def test_what_another_user_left_is_not(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: trained.stat().st_uid + 1)
    with pytest.raises(StoreError, match="belongs to user"):
        check_own(trained)


def test_links_and_published_folders_are_not(trained: Path, tmp_path: Path) -> None:
    (trained / "optimizer.pt").rename(tmp_path / "elsewhere.pt")
    (trained / "optimizer.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(StoreError, match=r"optimizer\.pt: is a link"):
        check_own(trained)
    published = tmp_path / "sft-1" / "trainer" / "checkpoint-4"
    published.mkdir(parents=True)
    with pytest.raises(StoreError, match="is in no unfinished stage"):
        check_own(published)
