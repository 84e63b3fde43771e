"""Only safetensors are read, and pickled trainer state only where nobody else can have put it.

A pickle is a program: whoever writes one decides what the reader does. transformers falls back on
`pytorch_model.bin` unless told not to, PEFT on `adapter_model.bin` whatever it is told (peft 0.19,
save_and_load.load_peft_weights), and DeepSpeed reads its state with `weights_only=False`.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cpt.errors import StoreError
from cpt.names import below

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check_weights(folder: Path) -> None:
    """Refuse a checkpoint folder without safetensors, or whose index leads out of it.

    Raises:
        StoreError: tells which file, and what is taken instead.
    """
    index = folder / _INDEX
    if (folder / _SINGLE).is_file():
        return
    if index.is_file():
        try:
            names = {*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{index}: is damaged ({error})") from None
        for name in names:
            below(folder, name, f"{index}: weight_map")
            if not name.endswith(".safetensors"):
                raise StoreError(f"{index}: weight_map: {name!r} is no .safetensors file")
    elif pickled := _pickled(folder):
        raise StoreError(
            f"{folder}: {pickled.name}: pickled weights are not loaded, since they can run any code; convert "
            f"them to safetensors with save_pretrained where you trust them"
        )


def check_plain(folder: Path) -> None:
    """Refuse a model's folder with an adapter in it, which transformers puts on top without a word.

    What is trained, averaged and saved then is no longer the model that the folder's weights are. Source:
    transformers 5, modeling_utils.PreTrainedModel.from_pretrained, `_adapter_model_path`.

    Raises:
        StoreError: tells what is done instead.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise StoreError(
            f"{folder}: has an {ADAPTER_CONFIG}, and would be loaded with that adapter on top; merge it into "
            f"the weights (merge_and_unload, save_pretrained), or move the adapter's files elsewhere"
        )


def check_adapter(folder: Path | str) -> str:
    """The folder of an adapter in safetensors.

    Raises:
        StoreError: it has none; PEFT would look for a pickled one, there and on the hub.
    """
    folder = Path(folder)
    if (folder / ADAPTER).is_file():
        return str(folder)
    pickled = _pickled(folder)
    has = (
        f"has {pickled.name}, which can run any code when it is read"
        if pickled
        else "has no weights"
    )
    raise StoreError(f"{folder}: {has}; adapters are loaded from {ADAPTER} only")


def _pickled(folder: Path) -> Path | None:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((file for file in files if file.suffix in _PICKLES), None)


def check_own(trained: Path) -> str:
    """The folder of a trainer's checkpoint, all of which only this user can have written.

    Optimizer, scheduler and random states are pickles. They are loaded from a stage under way only.

    Raises:
        StoreError: a part of it belongs to another user, can be written by others, or is a link; or the
            folder is not in a stage's `.partial/trainer`.
    """
    if trained.parent.name != "trainer" or not trained.parent.parent.name.endswith(".partial"):
        raise StoreError(f"{trained}: is in no unfinished stage; training continues only there")
    for path in [trained.parent.parent, trained.parent, trained, *_all_below(trained)]:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            problem, instead = "is a link", "remove it"
        elif status.st_uid != os.geteuid():
            problem = f"belongs to user {status.st_uid}, and this one is {os.geteuid()}"
            instead = "continue as that user"
        elif status.st_mode & stat.S_IWOTH:
            problem, instead = "can be written by anyone", f"chmod -R o-w {trained.parent.parent}"
        else:
            continue
        raise StoreError(
            f"{path}: {problem}; what an interrupted stage left is read as code would be: {instead}, "
            f"or begin the stage anew with --restart"
        )
    return str(trained)


def _all_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))
