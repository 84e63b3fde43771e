"""`path=value` onto a recipe tree: `stages.sft.train.learning_rate=3e-6`."""

from collections.abc import Iterable
from typing import Any

from cpt import yaml12
from cpt.errors import RecipeError
from cpt.settings import did_you_mean


def split(text: str) -> tuple[list[str], Any]:
    """`a.b=1` -> (["a", "b"], 1); the value is YAML.

    Raises:
        RecipeError: no `=`, or an empty path element.
    """
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{text}: an override is written path=value, as in seed=18")
    return parts, yaml12.parse(value, text)


def apply(
    tree: dict[str, Any], parts: list[str], value: Any, text: str, top: Iterable[str]
) -> None:
    """Set one value in place.

    Mappings are created on the way where the recipe leaves them out; an item of a list is named by its
    index or, for hooks, by its name. Stages and hooks are never created.

    Args:
        tree: the recipe as read from YAML.
        parts: the path.
        value: what to set.
        text: the override as written, for errors.
        top: the keys that a recipe may have.

    Raises:
        RecipeError: the path names nothing.
    """
    known_top = set(top)
    if parts[0] not in known_top:
        raise RecipeError(
            f"{text}: a recipe has no {parts[0]!r}{did_you_mean(parts[0], known_top)}"
        )
    here: Any = tree
    rest = list(parts)
    path: list[str] = []
    while len(rest) > 1:
        part = rest.pop(0)
        name = ".".join(path) or "the recipe"
        if isinstance(here, list):
            here = _item(here, part, rest, path, text)
        elif isinstance(here, dict):
            _check_stage(here, part, path, text)
            if here.get(part) is None:
                here[part] = [] if part == "hooks" else {}
            here = here[part]
        else:
            raise RecipeError(f"{text}: {name} is {here!r} and has no parts")
        path.append(part)
    last, name = rest[0], ".".join(path)
    if isinstance(here, list):
        index = _index(here, last, path, text)
        here[index] = {last: value} if _is_hooks(path) and last == _name(here[index]) else value
    elif isinstance(here, dict):
        _check_stage(here, last, path, text)
        here[last] = value
    else:
        raise RecipeError(f"{text}: {name} is {here!r} and has no parts")


def _check_stage(here: dict[str, Any], part: str, path: list[str], text: str) -> None:
    if path == ["stages"] and part not in here:
        raise RecipeError(f"{text}: stages has no {part!r}{did_you_mean(part, here)}")


def _item(items: list[Any], part: str, rest: list[str], path: list[str], text: str) -> Any:
    """The item of a list that `part` names; of a hook, its settings."""
    index = _index(items, part, path, text)
    if not _is_hooks(path):
        return items[index]
    name = _name(items[index])
    if not isinstance(items[index], str | dict) or not name:
        raise RecipeError(f"{text}: {'.'.join(path)}.{index} is {items[index]!r}, not a hook")
    if isinstance(items[index], str) or items[index][name] is None:
        items[index] = {name: {}}  # a bare name: give it settings
    if len(rest) > 1 and rest[0] == name:  # hooks.0.kl.beta is hooks.0.beta
        rest.pop(0)
    return items[index][name]


def _is_hooks(path: list[str]) -> bool:
    return path[-1:] == ["hooks"]


def _name(entry: Any) -> str:
    """A hook's name as a recipe writes it."""
    if isinstance(entry, dict):
        return str(next(iter(entry), ""))
    return str(entry)


def _index(items: list[Any], part: str, path: list[str], text: str) -> int:
    name = ".".join(path)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [_name(entry) for entry in items] if _is_hooks(path) else []
    matches = [index for index, entry in enumerate(names) if entry == part]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RecipeError(
            f"{text}: {name} has {len(matches)} items called {part!r}; name one by its index, "
            f"{' or '.join(map(str, matches))}"
        )
    if not names:
        size = f"{len(items)} items, named by their index from 0" if items else "no items"
        raise RecipeError(
            f"{text}: {name} has no {part!r}; it has {size}; {name}=[...] sets them all"
        )
    raise RecipeError(f"{text}: {name} has no {part!r}{did_you_mean(part, names)}")
