"""Names of hooks -> classes. Other packages add theirs through the entry-point group `cpt.hooks`.

In a package's pyproject.toml, where `slow` is the hook's name:

    [project.entry-points."cpt.hooks"]
    slow = "my_package.slow:Slow"
"""

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module, metadata
from inspect import get_annotations
from typing import Any, get_type_hints

from pydantic import create_model

from cpt.errors import RecipeError
from cpt.hooks.base import Hook
from cpt.settings import Settings, did_you_mean, validate

TABLE: dict[str, str] = {
    "replay": "cpt.hooks.replay:Replay",
    "kl": "cpt.hooks.kl:KL",
    "lwf": "cpt.hooks.lwf:LwF",
    "der": "cpt.hooks.der:DER",
    "lora": "cpt.hooks.lora:Lora",
    "o_lora": "cpt.hooks.o_lora:OLora",
    "osf": "cpt.hooks.osf:OSF",
    "freeze": "cpt.hooks.freeze:Freeze",
    "l2_sp": "cpt.hooks.l2_sp:L2SP",
    "ewc": "cpt.hooks.ewc:EWC",
    "online_ewc": "cpt.hooks.ewc:OnlineEWC",
    "si": "cpt.hooks.si:SI",
    "mas": "cpt.hooks.mas:MAS",
    "ema": "cpt.hooks.ema:EMA",
    "interpolate": "cpt.hooks.interpolate:Interpolate",
    "agem": "cpt.hooks.agem:AGEM",
    "gem": "cpt.hooks.gem:GEM",
}


@cache
def others() -> dict[str, metadata.EntryPoint]:
    """The hooks of installed packages; ours keep their names."""
    found = metadata.entry_points(group="cpt.hooks")
    return {entry.name: entry for entry in found if entry.name not in TABLE}


@cache
def names() -> dict[str, str]:
    """Every known hook: ours and those of installed packages."""
    return {**{name: entry.value for name, entry in others().items()}, **TABLE}


def hook_class(name: str, where: str) -> type[Hook]:
    """The class of a hook.

    Raises:
        RecipeError: no such hook, with the nearest; or another package's that does not load or is no hook.
    """
    if name not in names():
        raise RecipeError(f"{where}: hooks: no hook {name!r}{did_you_mean(name, names())}")
    if name in others():
        return _class_of(others()[name], where)
    module, _, attribute = names()[name].partition(":")
    found: type[Hook] = getattr(import_module(module), attribute)
    return found


def _class_of(entry: metadata.EntryPoint, where: str) -> type[Hook]:
    """The class that another package names.

    Raises:
        RecipeError: it does not load, or is no hook of that name; tells the package.
    """
    package = entry.dist.name if entry.dist else "an unknown package"
    whose = f"{where}: hooks.{entry.name}: {entry.value} of {package}"
    try:
        found = entry.load()
    except Exception as error:  # the code of others can raise anything
        raise RecipeError(f"{whose} does not load: {type(error).__name__}: {error}") from error
    is_hook = isinstance(found, type) and Hook in found.__mro__ and is_dataclass(found)
    if not is_hook:
        raise RecipeError(
            f"{whose} is no hook; make it a dataclass that subclasses cpt.hooks.base.Hook"
        )
    kind: type[Hook] = found
    if (own := getattr(kind, "name", None)) != entry.name:
        raise RecipeError(
            f"{whose} calls itself {own!r}; write name: ClassVar[str] = {entry.name!r}"
        )
    return kind


def build(name: str, settings: dict[str, Any], where: str) -> Hook:
    """Make a hook from its settings.

    Raises:
        RecipeError: unknown hook or setting, a value of another type or out of range; names file, hook,
            setting, value and what is expected.
    """
    found, where = hook_class(name, where), f"{where}: hooks.{name}"
    checked = validate(written(found), settings, where)
    try:
        return found(**{given: getattr(checked, given) for given in checked.model_fields_set})
    except ValueError as error:  # of `__post_init__`, about settings that do not go together
        raise RecipeError(f"{where}: {error}") from None


def schema(hook: type[Hook]) -> dict[str, Any]:
    """JSON schema of a hook's settings; references are to `#/$defs/`."""
    return written(hook).model_json_schema(ref_template="#/$defs/{model}")


@cache
def written(hook: type[Hook]) -> type[Settings]:
    """What a person can write for a hook: its settings, with the types as strict as in the rest of a recipe.

    A strict dataclass would take nothing but an instance of itself from pydantic.
    """
    known = [setting for setting in fields(hook) if setting.init]  # type: ignore[arg-type]
    types = types_of(hook)
    settings: dict[str, Any] = {}
    for setting in known:
        # The defaults are for schemas: only what was written is taken over, and the hook has its own.
        default: Any = ... if setting.default is MISSING else setting.default
        if setting.default_factory is not MISSING:
            default = setting.default_factory()
        settings[setting.name] = (types[setting.name], default)
    return create_model(hook.__name__, __base__=Settings, __doc__=hook.__doc__, **settings)


def types_of(hook: type[Hook]) -> dict[str, Any]:
    """Types of a hook's settings alone: what it keeps for itself may be typed for a checker only."""
    names = {setting.name for setting in fields(hook) if setting.init}  # type: ignore[arg-type]
    types: dict[str, Any] = {}
    for owner in reversed(hook.__mro__):
        own = {name: kind for name, kind in get_annotations(owner).items() if name in names}
        holder = type(owner.__name__, (), {"__annotations__": own, "__module__": owner.__module__})
        types |= get_type_hints(holder, include_extras=True)
    return types


def settings_of(hook: Hook) -> dict[str, Any]:
    """A hook's settings as plain values, for hashing and manifests."""
    values: dict[str, Any] = {}
    for setting in fields(hook):  # type: ignore[arg-type]
        if setting.init:
            value = getattr(hook, setting.name)
            if setting.metadata.get("later") and value == setting.default:
                continue
            values[setting.name] = value.content() if hasattr(value, "content") else value
    return values
