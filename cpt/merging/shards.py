"""Checkpoint folders tensor by tensor: what is in them from headers alone, and new ones written as a stream.

The format is https://huggingface.co/docs/safetensors: 8 bytes with the header's length, little-endian; the
header, JSON; the tensors' bytes. Since all shapes are known before the first tensor is, files are written
front to back and hold nothing back: at any time one tensor is in memory, not one file.
"""

import json
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cpt.errors import StoreError
from cpt.ids import atomic_write
from cpt.names import below

if TYPE_CHECKING:
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: Number types by the format's name -> torch's name, bytes. Types of 8 and fewer bits for weights are
#: not among them.
FLOATS = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
}
INTEGERS = {
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
TYPES = {**FLOATS, **INTEGERS}


@dataclass(frozen=True)
class Entry:
    """A tensor by its header: number type as the format names it, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def number(self) -> int:
        """Entries."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.number * TYPES[self.dtype][1]


class Checkpoint:
    """A checkpoint folder; entering it opens its files, and a tensor is read when it is asked for.

    Attributes:
        folder: where it is.
        label: what to call it in errors.
        entries: tensor name -> what the header says, in the order of the files.
        config: the model's, as JSON.

    Raises:
        StoreError: no weights in safetensors there, or damaged ones.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.folder, self.label = folder, label
        self.entries: dict[str, Entry] = {}
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._stack = ExitStack()
        try:
            self.config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
            for file in _files(folder):
                for name, entry in _header(file).items():
                    self.entries[name] = entry
                    self._files[name] = file
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            if not folder.is_dir():
                raise StoreError(
                    f"{label}: {folder}: is no folder here, and cannot be read for a merge; download a hub "
                    f"model first (hf download) and name its folder"
                ) from None
            raise StoreError(f"{label}: {folder}: cannot be read for a merge: {error}") from None

    @property
    def num_rows(self) -> int:
        """Embeddings, as the configuration declares them; 0 where it does not."""
        return int(self.config.get("text_config", self.config).get("vocab_size", 0))

    def tensor(self, name: str) -> "Tensor":
        """A tensor, on the CPU; writing into it changes no file."""
        from safetensors import safe_open

        file = self._files[name]
        if file not in self._open:
            self._open[file] = self._stack.enter_context(safe_open(str(file), "pt"))
        tensor: Tensor = self._open[file].get_tensor(name)
        return tensor

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.clear()
        self._stack.close()


def write(
    folder: Path, entries: Mapping[str, Entry], tensor_of: "Callable[[str], Tensor]", most: int
) -> None:
    """Write tensors into an empty folder as transformers would: one file, or several and an index.

    Args:
        folder: an empty one; whatever else lay there could be loaded instead.
        entries: of all tensors, by name.
        tensor_of: gives each tensor once, when it is its turn.
        most: bytes of tensors in a file; a larger tensor has a file of its own.
    """
    assert not any(folder.glob("*.safetensors*")), f"{folder} holds weights already"
    parts = split(entries, most)
    places: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        file = SINGLE if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        _write(folder / file, {name: entries[name] for name in names}, tensor_of)
        places |= dict.fromkeys(names, file)
    if len(parts) > 1:
        total = sum(entry.size for entry in entries.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        atomic_write(folder / INDEX, json.dumps(index, indent=2) + "\n")


def split(entries: Mapping[str, Entry], most: int) -> list[list[str]]:
    """Names of the tensors of each file, in order."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, entry in entries.items():
        if parts[-1] and size + entry.size > most:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += entry.size
    return parts


def _write(file: Path, entries: Mapping[str, Entry], tensor_of: "Callable[[str], Tensor]") -> None:
    import torch

    # Wider types first, so that every tensor begins at a multiple of its type's size.
    names = sorted(entries, key=lambda name: -TYPES[entries[name].dtype][1])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        entry = entries[name]
        offsets = [end, end := end + entry.size]
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor, entry = tensor_of(name), entries[name]
            assert (tensor.dtype, tuple(tensor.shape)) == (
                getattr(torch, TYPES[entry.dtype][0]),
                entry.shape,
            ), name
            opened.write(_bytes(tensor))


def _bytes(tensor: "Tensor") -> Any:
    """A tensor's memory, uncopied; numpy has no bfloat16, so as bytes."""
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy()


def _files(folder: Path) -> list[Path]:
    """Where the weights are, looked for in the order in which transformers does."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [folder / SINGLE]
    names = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()
    return [below(folder, name, str(folder / INDEX)) for name in dict.fromkeys(names)]


def _header(file: Path) -> dict[str, Entry]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > file.stat().st_size:
            raise ValueError(f"{file.name} is no safetensors file")
        tree = json.loads(opened.read(length))
    tree.pop("__metadata__", None)
    placed = sorted(tree, key=lambda name: tree[name]["data_offsets"])
    return {name: Entry(tree[name]["dtype"], tuple(tree[name]["shape"])) for name in placed}
