"""Checkpoint folders -> one: checked, then merged tensor by tensor from disk to disk."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt.errors import EdgeError
from cpt.merging.checks import Layout, Models, copied_names, layout
from cpt.merging.combination import Source, Vectors, combination
from cpt.merging.shards import FLOATS, TYPES, Checkpoint, write
from cpt.merging.spec import Delta, Layerwise, Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Folders:
    """Checkpoint folders by what they are for; (name, folder), the models in order."""

    models: tuple[tuple[str, Path], ...]
    base: tuple[str, Path] | None = None
    onto: tuple[str, Path] | None = None

    def only(self, places: tuple[int, ...]) -> "Folders":
        """Some of the models."""
        return Folders(tuple(self.models[place] for place in places), self.base, self.onto)


@dataclass(frozen=True)
class Told:
    """What a merge found out: numbers for the manifest, and sentences."""

    checks: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def look(folders: Folders) -> Layout:
    """What the result would consist of, from headers alone.

    Raises:
        StoreError, EdgeError: the checkpoints cannot be merged; see `checks`.
    """
    return layout(_opened(folders))


def merge(folders: Folders, method: Method, seed: int, folder: Path) -> Told:
    """Merge checkpoints into an empty folder, which then is one that `from_pretrained` opens alone.

    Arithmetic is in fp32; each number is rounded once, to the type that the result has. Besides what a method
    itself holds, at most one tensor of each model is in memory, whatever the size of models and files.

    Args:
        folders: what is merged.
        method: how.
        seed: for methods that draw.
        folder: an empty one.

    Raises:
        StoreError: a folder has no weights, or damaged ones.
        EdgeError: the checkpoints do not fit one another.
    """
    with ExitStack() as stack:
        given = _opened(folders)
        for one in given.all:
            stack.enter_context(one)
        shape = layout(given)
        source, vectors = Source(given, shape), Vectors(len(given.models))
        combine = combination(method, source, seed, vectors)

        def tensor_of(name: str) -> "Tensor":
            if shape.entries[name].dtype not in FLOATS:
                return _equal(given, shape.main, name)
            return _typed(combine(name), shape, name)

        write(folder, shape.entries, tensor_of, method.shard_bytes)
        for file in copied_names(path.name for path in shape.main.folder.iterdir()):
            shutil.copyfile(shape.main.folder / file, folder / file)
    checks: dict[str, Any] = {}
    if isinstance(method, Delta):
        checks["task_vectors"] = vectors.told()
    if isinstance(method, Layerwise):
        checks["alphas"] = method.alphas()
    return Told(checks, shape.notes)


def _opened(folders: Folders) -> Models:
    """The checkpoints, headers read; one that serves twice is read once."""
    known: dict[Path, Checkpoint] = {}

    def one(entry: tuple[str, Path] | None) -> Checkpoint | None:
        if entry is None:
            return None
        name, folder = entry
        return known.setdefault(folder, Checkpoint(folder, name))

    models = tuple(found for entry in folders.models if (found := one(entry)))
    return Models(models, one(folders.base), one(folders.onto))


def _equal(given: Models, main: Checkpoint, name: str) -> "Tensor":
    """Integers, such as counts and masks, have no average: they are copied where all have the same.

    Raises:
        EdgeError: they differ.
    """
    own = main.tensor(name)
    for one in given.all:
        if not own.equal(one.tensor(name)):
            raise EdgeError(
                f"{main.label} and {one.label}: {name} holds integers and differs; integers have no "
                f"average, so make them equal in both checkpoints, or merge others"
            )
    return own


def _typed(values: "Tensor", shape: Layout, name: str) -> "Tensor":
    """fp32 values in the result's number type, with the rows that were not merged.

    Raises:
        EdgeError: a number is too large for fp16.
    """
    import torch

    entry = shape.entries[name]
    dtype = getattr(torch, TYPES[entry.dtype][0])
    typed = values.to(dtype)
    if dtype == torch.float16 and not bool(typed.isfinite().all()):
        raise EdgeError(f"{name}: a merged number is beyond float16's 65504; use bfloat16 models")
    common = shape.rows.get(name, 0)
    if name in shape.rows and common < entry.shape[0]:
        typed = torch.cat([typed, shape.main.tensor(name)[common:].to(dtype)])
    return typed
