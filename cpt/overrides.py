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
    index or, for hooks and rewards, by its name. Stages are never created.

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
    for depth, part in enumerate(parts[:-1]):
        name = ".".join(parts[:depth]) or "the recipe"
        if isinstance(here, list):
            here = _item(here, part, name, text)
        elif isinstance(here, dict):
            if name == "stages" and part not in here:
                raise RecipeError(f"{text}: stages has no {part!r}{did_you_mean(part, here)}")
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        else:
            raise RecipeError(f"{text}: {name} is {here!r} and has no parts")
    last = parts[-1]
    if isinstance(here, list):
        index = _index(here, last, ".".join(parts[:-1]), text)
        here[index] = (
            {last: value} if isinstance(here[index], str) or last in here[index] else value
        )
    elif isinstance(here, dict):
        if parts[:-1] == ["stages"] and last not in here:
            raise RecipeError(f"{text}: stages has no {last!r}{did_you_mean(last, here)}")
        here[last] = value
    else:
        raise RecipeError(f"{text}: {'.'.join(parts[:-1])} is {here!r} and has no parts")


def _item(items: list[Any], part: str, name: str, text: str) -> Any:
    index = _index(items, part, name, text)
    entry = items[index]
    if isinstance(entry, str):  # a bare hook name: give it settings
        items[index] = entry = {entry: {}}
    if isinstance(entry, dict) and part in entry and not part.isdigit():
        if entry[part] is None:
            entry[part] = {}
        return entry[part]
    return entry


def _index(items: list[Any], part: str, name: str, text: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [entry if isinstance(entry, str) else next(iter(entry), "") for entry in items]
    matches = [index for index, entry in enumerate(names) if entry == part]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RecipeError(
            f"{text}: {name} has {len(matches)} items called {part!r}; name one by its index"
        )
    raise RecipeError(f"{text}: {name} has no {part!r}{did_you_mean(part, names)}")
