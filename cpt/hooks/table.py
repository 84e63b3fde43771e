"""Names of hooks -> classes. Other packages add theirs through the entry-point group `cpt.hooks`."""

from dataclasses import fields
from functools import cache
from importlib import import_module, metadata
from typing import Any

from cpt.errors import RecipeError
from cpt.hooks.base import Hook
from cpt.settings import did_you_mean, validate

TABLE: dict[str, str] = {
    "replay": "cpt.hooks.replay:Replay",
    "kl": "cpt.hooks.kl:KL",
    "lora": "cpt.hooks.lora:Lora",
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
        RecipeError: unknown hook or setting, or a value out of range.
    """
    return validate(hook_class(name, where), settings, f"{where}: hooks.{name}")


def settings_of(hook: Hook) -> dict[str, Any]:
    """A hook's settings as plain values, for hashing and manifests."""
    values: dict[str, Any] = {}
    for setting in fields(hook):  # type: ignore[arg-type]
        if setting.init:
            value = getattr(hook, setting.name)
            values[setting.name] = value.content() if hasattr(value, "content") else value
    return values
