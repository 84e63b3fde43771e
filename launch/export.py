"""`cpt export`: a stage as a plain Hugging Face folder, whole or not at all; if asked for, onto the hub."""

import argparse
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

from cpt import ids, manifest
from cpt.checkpoint import remedy, sync
from cpt.errors import RecipeError, StoreError
from cpt.manifest import Manifest
from cpt.net import retried
from cpt.past import EXEMPLARS
from cpt.removed_weights import made_again_by, removed_weights
from cpt.settings import did_you_mean
from cpt.store import sync_folder
from launch.card import card
from launch.gc import size_text
from launch.naming import stage_folder
from launch.public import check_public, public

#: Of settings that libraries write: where a model was loaded from.
_ORIGINS = ("_name_or_path", "name_or_path", "base_model_name_or_path")
_TOLD = (
    "id",
    "kind",
    "name",
    "parents",
    "hooks",
    "data",
    "packages",
    "code",
    "num_steps",
    "finished",
)


def export(given: argparse.Namespace) -> int:
    """Write the folder, and upload it.

    Raises:
        RecipeError: no such stage, no adapter, or a folder that holds other files.
        StoreError: a damaged file, a text that must not leave this machine, or the hub's refusal.
    """
    if given.private and not given.push:
        raise RecipeError("--private: is of the hub; name --push REPO too")
    stage = stage_folder(given.stage, given.runs)
    if stage is None:
        known = [path.parent.name for path in given.runs.glob("stages/*/manifest.json")]
        hint = did_you_mean(given.stage, known) if known else "; there are none yet"
        raise RecipeError(f"{given.runs}: no finished stage {given.stage!r}{hint}")
    part = "adapter" if given.adapter else "checkpoint"
    write(stage, given.to, part, given.with_rows)
    files = [path for path in given.to.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(f"{given.to}: {len(files)} files, {size_text(size)}, {part} of {stage.name}")
    if given.push:
        print(f"uploaded: {push(given.to, given.push, stage.name, given.private)}")
    return 0


def write(stage: Path, target: Path, part: str = "checkpoint", with_rows: bool = False) -> None:
    """Export a stage into a folder that is not there yet, or empty.

    Args:
        part: checkpoint or adapter.

    Raises:
        RecipeError, StoreError: see `export`.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RecipeError(f"{target}: is there already; name a new folder")
    entry = manifest.read(stage)
    names = [name for name in entry.files if name.startswith(f"{part}/")]
    if not names:
        instead = "leave --adapter out" if part == "adapter" else "make the stage anew"
        raise RecipeError(f"{stage.name}: left no {part}; {instead}")
    if not removed_weights(stage).isdisjoint(names):
        raise StoreError(f"{stage.name}: {made_again_by(stage)}")
    with _whole(target) as folder:
        for name in names:
            _copy(stage, name, entry, folder / name.removeprefix(f"{part}/"))
        for file in folder.glob("*.json"):
            _without_origin(file)
        (folder / "README.md").write_text(card(stage, entry), encoding="utf-8")
        told = {key: value for key, value in asdict(entry).items() if key in _TOLD}
        past = [{"name": each.name, "kind": each.kind, "id": each.id} for each in entry.past]
        tree = public({**told, "past": past, "part": part})
        (folder / "provenance.json").write_text(json.dumps(tree, indent=1, default=str) + "\n")
        check_public(folder)
        if with_rows:
            _copy(stage, EXEMPLARS, entry, folder / EXEMPLARS)


def push(folder: Path, repository: str, name: str, is_private: bool) -> str:
    """Upload a folder to the hub.

    Returns: its address there.
    Raises:
        StoreError: the hub refuses, or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # What the hub's client raises besides: the error of the HTTP library that it is built on.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    hub = HfApi()
    try:
        address = retried(
            lambda: hub.create_repo(repository, private=is_private, exist_ok=True), repository
        )
        # What is there already is not sent again.
        retried(
            lambda: hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Export of {name} by cpt"
            ),
            repository,
        )
    except (OSError, ValueError, http_error) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"{repository}: cannot be uploaded to: {why}; {folder} is whole: log in (hf auth login), "
            f"and upload it with: hf upload {repository} {folder}"
        ) from error
    return str(address)


def _copy(stage: Path, name: str, entry: Manifest, target: Path) -> None:
    """Copy one file; the copy is what is checked."""
    source = stage / name
    if ".." in Path(name).parts or name not in entry.files or not source.is_file():
        raise StoreError(f"{source}: is missing; {remedy(stage, stage.name)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if ids.sha256_file(target) != entry.files[name]:
        raise StoreError(
            f"{source}: is damaged: its bytes are not the ones that were written; "
            f"{remedy(stage, stage.name)}"
        )


def _without_origin(file: Path) -> None:
    """Settings without the place that a model was loaded from."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{file.name}: is no JSON ({error}); make the stage anew") from None
    if not isinstance(tree, dict) or not any(key in tree for key in _ORIGINS):
        return
    changed = {key: _origin(value) if key in _ORIGINS else value for key, value in tree.items()}
    if changed != tree:
        file.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")


def _origin(value: Any) -> Any:
    """A hub id as it is; of a folder, the id of its stage, or what a base model is called on the hub."""
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    stage = Path(value).parent
    if not (stage / "manifest.json").is_file():
        return Path(value).name
    entry = manifest.read(stage)
    named = entry.inputs.get("path") if entry.kind == "base" else None
    return named if isinstance(named, str) and not Path(named).is_absolute() else entry.id


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block ends well, and is removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of other machines on this file system nobody knows here whether their processes run.
    start = f".{target.name}.cpt-export-{socket.gethostname()}-"
    for left in target.parent.glob(f"{escape(start)}*"):
        pid = left.name.removeprefix(start)
        if pid == str(os.getpid()) or not _is_running(pid):  # of one that was killed
            shutil.rmtree(left)
    folder = target.with_name(f"{start}{os.getpid()}")
    folder.mkdir()
    try:
        yield folder
        sync(folder)
        try:
            if target.is_dir():
                target.rmdir()
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise RecipeError(f"{target}: came to be there meanwhile; name a new folder") from None
        sync_folder(target.parent)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True
