"""Configs that a recipe names by path, read and put in their place; local paths made absolute."""

import os
from pathlib import Path
from typing import Any

from cpt import yaml12
from cpt.errors import RecipeError

_FILES = (".yaml", ".yml")


PATHS = ("path", "chat_template", "source")


def expand(tree: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Inline the configs that `model`, `data` and `source` name, and make their paths absolute."""
    done: dict[str, Any] = {}
    for key, value in tree.items():
        done[key] = value
        if key == "model" and isinstance(value, str):
            done[key] = (
                _inline(value, folder, where)
                if value.endswith(_FILES)
                else absolute({"path": value}, folder)
            )
        elif key == "model" and isinstance(value, dict):
            done[key] = absolute(value, folder)
        elif key == "data":
            items = value if isinstance(value, list) else [value]
            expanded = [expand_data(item, folder, where) for item in items]
            done[key] = expanded if isinstance(value, list) else expanded[0]
        elif key == "probes" and isinstance(value, str):
            done[key] = str(_local(value, folder))
        elif key == "merge" and isinstance(value, dict) and isinstance(value.get("suite"), str):
            done[key] = {**value, "suite": str(_local(value["suite"], folder))}
        elif key == "watch" and isinstance(value, dict):
            done[key] = _watch(value, folder, where)
        elif key == "hooks" and isinstance(value, list):
            done[key] = [expand_hook(entry, folder, where) for entry in value]
    return done


def expand_data(item: Any, folder: Path, where: str, within: tuple[Path, ...] = ()) -> Any:
    """A data config with the files that it names, itself or by `use:`, read and inlined.

    Raises:
        RecipeError: a file that is not there, or one that uses itself.
    """
    if isinstance(item, str):
        if not item.endswith(_FILES):
            return absolute({"path": item}, folder)
        item = {"use": item}
    if isinstance(item, dict) and isinstance(item.get("use"), str):
        rest = {key: value for key, value in item.items() if key != "use"}
        file = _local(item["use"], folder)
        if file in within:
            raise RecipeError(f"{where}: use: {file.name} uses itself")
        config = _inline(item["use"], folder, where)
        used = expand_data(config, file.parent, str(file), (*within, file))
        return {**used, **absolute(rest, folder)}
    return absolute(item, folder) if isinstance(item, dict) else item


def expand_hook(entry: Any, folder: Path, where: str, only: str | None = None) -> Any:
    """Inline the data config that a hook's `source` names; `only` one name's settings are wanted."""
    if not isinstance(entry, dict):
        return entry
    done = dict(entry)
    for name, settings in entry.items():
        if isinstance(settings, dict) and "source" in settings:
            source = expand_data(settings["source"], folder, f"{where}: hooks.{name}.source")
            done[name] = {**settings, "source": source}
    return done if only is None else done.get(only, done)


def _watch(watch: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    done = dict(watch)
    if isinstance(watch.get("suite"), str):
        done["suite"] = str(_local(watch["suite"], folder))
    if "text" in watch:
        done["text"] = expand_data(watch["text"], folder, f"{where}: watch.text")
    return done


def _inline(name: str, folder: Path, where: str) -> dict[str, Any]:
    file = _local(name, folder)
    if not file.is_file():
        raise RecipeError(f"{where}: {file}: no such file{yaml12.nearest_file(file)}")
    config = yaml12.load(file)
    if not isinstance(config, dict):
        raise RecipeError(f"{file}: is a mapping of settings, not {config!r}")
    return absolute(config, file.parent)


def absolute(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve what looks like a local path against the folder of the file that says it."""
    done = dict(config)
    for key in PATHS:
        value: Any = config.get(key)
        values = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) and looks_local(item) for item in values):
            resolved = [str(_local(item, folder)) for item in values]
            done[key] = resolved if isinstance(value, list) else resolved[0]
    return done


def looks_local(path: str) -> bool:
    """Whether a path names local files, not something on the hub.

    It starts with one of . / ~ $ or ends in a file type.
    """
    kinds = (".json", ".jsonl", ".gz", ".parquet", ".txt", ".jinja", ".zst")
    return path.startswith((".", "/", "~", "$")) or path.endswith(kinds)


def _local(path: str, folder: Path) -> Path:
    expanded = Path(os.path.expandvars(path)).expanduser()
    return Path(os.path.normpath(folder.absolute() / expanded))
