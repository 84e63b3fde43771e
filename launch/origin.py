"""What a model that a person names is: a stage with its past, a bare folder by its content, or a hub id."""

from dataclasses import replace
from pathlib import Path

from cpt import checkpoint, manifest, past
from cpt.errors import RecipeError
from cpt.past import Past
from cpt.settings import did_you_mean

DTYPES = ("float32", "bfloat16", "float16")


def past_of(name: str, where: str) -> Past:
    """The past that ends with the model called `name`.

    A bare folder's id is its content's, so that other weights in the same place are another parent, and the
    same weights elsewhere are not.

    Raises:
        RecipeError: it can only be a folder, and there is none.
    """
    folder = Path(name)
    if folder.is_dir():
        before = past.of_folder(folder.absolute())
        if before[-1].folder is None:
            own = f"folder-{checkpoint.fingerprint(folder)[:16]}"
            return Past((replace(before[-1], id=own),))
        return before
    if name.startswith((".", "/", "~")):
        raise RecipeError(f"{where}: no such folder")
    return past.of_checkpoint(name)


def dtype_of(before: Past) -> str | None:
    """The number type that the stages of a past were made in; None where nothing says so."""
    for stage in reversed(before.stages):
        if stage.folder is None or not (stage.folder / "manifest.json").is_file():
            continue
        entry = manifest.read(stage.folder)
        found = entry.inputs if entry.kind == "base" else entry.inputs.get("load", {})
        if "dtype" in found:
            return str(found["dtype"])
    return None


def check_dtype(name: object, where: str) -> str:
    """A number type's name.

    Raises:
        RecipeError: there is no such type.
    """
    if name not in DTYPES:
        raise RecipeError(f"{where}: there is no {name!r}{did_you_mean(str(name), DTYPES)}")
    return str(name)
