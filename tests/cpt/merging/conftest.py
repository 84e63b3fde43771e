"""Checkpoint folders made of given tensors, or of headers alone."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cpt.merging.shards import TYPES

CONFIG: dict[str, Any] = {"model_type": "tiny", "architectures": ["Tiny"], "vocab_size": 4}


class Folders:
    """Makes checkpoint folders below one place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, name: str, tensors: Mapping[str, Any], **config: Any) -> Path:
        """A checkpoint of torch tensors."""
        from safetensors.torch import save_file

        folder = self._folder(name, config)
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def header(
        self, name: str, entries: Mapping[str, tuple[str, tuple[int, ...]]], **config: Any
    ) -> Path:
        """A checkpoint of zeros, written without torch."""
        folder = self._folder(name, config)
        header, end = {}, 0
        for key, (dtype, shape) in entries.items():
            size = TYPES.get(dtype, ("", 1))[1]
            for length in shape:
                size *= length
            offsets = [end, end := end + size]
            header[key] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + bytes(end)
        (folder / "model.safetensors").write_bytes(data)
        return folder

    def _folder(self, name: str, config: Mapping[str, Any]) -> Path:
        folder = self.root / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        return folder


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)
