import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cpt.errors import StoreError
from cpt.merging.shards import INDEX, SINGLE, Checkpoint, Entry, split, write

TENSORS: dict[str, Any] = {
    "steps": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "norm": torch.arange(5, dtype=torch.float32),
    "layer.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "empty": torch.zeros(0, 3),
}
TYPES = {torch.int64: "I64", torch.bool: "BOOL", torch.float32: "F32", torch.bfloat16: "BF16"}
ENTRIES = {name: Entry(TYPES[t.dtype], tuple(t.shape)) for name, t in TENSORS.items()}


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    write(tmp_path, ENTRIES, TENSORS.__getitem__, 1 << 30)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    found = load_file(tmp_path / SINGLE)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].equal(tensor)


def test_every_tensor_begins_at_a_multiple_of_its_size(tmp_path: Path) -> None:
    write(tmp_path, ENTRIES, TENSORS.__getitem__, 1 << 30)
    data = (tmp_path / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}  # transformers asks for it
    assert length % 8 == 0
    for name, entry in header.items():
        size = TENSORS[name].element_size()
        assert entry["data_offsets"][0] % size == 0


@pytest.mark.parametrize("most", [1, 12, 20, 40])
def test_files_of_any_size_hold_the_same(folders: Any, tmp_path: Path, most: int) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write(folder, ENTRIES, TENSORS.__getitem__, most)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((folder / INDEX).read_text())
    assert index["weight_map"].keys() == TENSORS.keys()
    assert index["metadata"]["total_size"] == sum(entry.size for entry in ENTRIES.values())
    for names in split(ENTRIES, most):
        assert len(names) == 1 or sum(ENTRIES[name].size for name in names) <= most
    with Checkpoint(folder, "out") as made:
        assert {*made.entries.items()} == {*ENTRIES.items()}
        assert all(made.tensor(name).equal(tensor) for name, tensor in TENSORS.items())


def test_weights_are_written_into_an_empty_folder_only(tmp_path: Path) -> None:
    # from_pretrained would load the old file and never look at the new ones.
    (tmp_path / SINGLE).write_bytes(b"")
    with pytest.raises(AssertionError, match="holds weights already"):
        write(tmp_path, ENTRIES, TENSORS.__getitem__, 1)


def test_headers_say_all_before_a_tensor_is_read(folders: Any) -> None:
    made = Checkpoint(folders.save("a", TENSORS), "a")
    assert {*made.entries.items()} == {*ENTRIES.items()}
    assert made.num_rows == 4
    assert ENTRIES["layer.weight"].size == 12


def test_a_folder_without_weights_is_refused(tmp_path: Path, folders: Any) -> None:
    with pytest.raises(StoreError, match=r"nowhere: .*cannot be read for a merge"):
        Checkpoint(tmp_path / "none", "nowhere")
    folder = folders.save("a", TENSORS)
    (folder / SINGLE).write_bytes(b"\xff" * 100)
    with pytest.raises(StoreError, match="no safetensors file"):
        Checkpoint(folder, "a")
