"""Names of hooks -> classes. Other packages add theirs through the entry-point group `cpt.hooks`."""

from dataclasses import MISSING, fields
from functools import cache
from importlib import import_module, metadata
from typing import Any, get_type_hints

from pydantic import create_model

from cpt.errors import RecipeError
from cpt.hooks.base import Hook
from cpt.settings import Settings, did_you_mean, validate

TABLE: dict[str, str] = {
    "replay": "cpt.hooks.replay:Replay",
    "kl": "cpt.hooks.kl:KL",
    "lora": "cpt.hooks.lora:Lora",
    "o_lora": "cpt.hooks.o_lora:OLora",
    "osf": "cpt.hooks.osf:OSF",
    "freeze": "cpt.hooks.freeze:Freeze",
    "ema": "cpt.hooks.ema:EMA",
    "interpolate": "cpt.hooks.interpolate:Interpolate",
}


@cache
def names() -> dict[str, str]:
    """Every known hook: ours and those of installed packages."""
    found = {entry.name: entry.value for entry in metadata.entry_points(group="cpt.hooks")}
    return {**found, **TABLE}


def hook_class(name: str, where: str) -> type[Hook]:
    """The class of a hook.

    Raises:
        RecipeError: no such hook; names the nearest.
    """
    if name not in names():
        raise RecipeError(f"{where}: hooks: no hook {name!r}{did_you_mean(name, names())}")
    module, _, attribute = names()[name].partition(":")
    found: type[Hook] = getattr(import_module(module), attribute)
    return found


def build(name: str, settings: dict[str, Any], where: str) -> Hook:
    """Make a hook from its settings.

    Raises:
        RecipeError: unknown hook or setting, a value of another type or out of range; names file, hook,
            setting, value and what is expected.
    """
    found, where = hook_class(name, where), f"{where}: hooks.{name}"
    checked = validate(_written(found), settings, where)
    try:
        return found(**{given: getattr(checked, given) for given in checked.model_fields_set})
    except ValueError as error:  # of `__post_init__`, about settings that do not go together
        raise RecipeError(f"{where}: {error}") from None


@cache
def _written(hook: type[Hook]) -> type[Settings]:
    """What a person can write for a hook: its settings, with the types as strict as in the rest of a recipe.

    A strict dataclass would take nothing but an instance of itself from pydantic.
    """
    types = get_type_hints(hook, include_extras=True)
    settings: dict[str, Any] = {}
    for setting in fields(hook):  # type: ignore[arg-type]
        if setting.init:
            is_needed = setting.default is MISSING and setting.default_factory is MISSING
            # Only what was written is taken over; the hook has its own defaults.
            settings[setting.name] = (types[setting.name], ... if is_needed else None)
    return create_model(hook.__name__, __base__=Settings, **settings)


def settings_of(hook: Hook) -> dict[str, Any]:
    """A hook's settings as plain values, for hashing and manifests."""
    values: dict[str, Any] = {}
    for setting in fields(hook):  # type: ignore[arg-type]
        if setting.init:
            value = getattr(hook, setting.name)
            values[setting.name] = value.content() if hasattr(value, "content") else value
    return values
