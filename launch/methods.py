"""What `cpt methods` tells of each hook and stage kind: its card, and what its class says itself."""

import inspect
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from cpt.errors import RecipeError, StoreError
from cpt.hooks import table
from cpt.hooks.base import Hook, points_of
from cpt.hooks.card import Card
from cpt.merging.spec import MergeSpec
from cpt.merging.spec import Method as MergeMethod
from cpt.settings import did_you_mean
from launch.backend import BACKENDS
from launch.nearest import Asked, refused
from launch.setting_text import Setting, bounds, default_text, documented, in_yaml, type_text
from stages import KINDS, kind_of
from stages.base import StageKind
from stages.trl_fields import own_fields

#: Step time and peak memory relative to no hook; `make bench-costs` writes it, and it may not be there.
COSTS = Path(table.__file__).with_name("costs.json")


_MORE = "and in train: all other fields of {}; cpt schema --stage lists them"


@dataclass(frozen=True)
class Cost:
    """What a way of setting a hook was measured to cost.

    Attributes:
        variant: which way, such as `proximal`.
        step, memory: as a method's.
        relative_to: another hook, or nothing where it is compared with a stage without hooks.
    """

    variant: str
    step: float | None = None
    memory: float | None = None
    relative_to: str = ""


@dataclass(frozen=True)
class Method:
    """One hook or stage kind, as `cpt methods` lists it.

    Attributes:
        name, what: its key in a recipe, and whether it is a hook or a stage kind.
        package: whose it is.
        acts_at: the points that a hook overrides; of a stage kind, its row formats.
        stages: the stage kinds of a hook; of a stage kind, the roles that it can have.
        backends: those that give what it needs, and refuse nothing that it always does.
        summary: the first line of its docstring.
        card: None where a package's hook has none.
        settings: its own.
        more_settings: where further settings are listed.
        step, memory: measured, relative to no hook.
        variants: the measured costs of other ways to set it.
        problem: why nothing else is known.
    """

    name: str
    what: Literal["hook", "stage kind"]
    package: str = "cpt"
    acts_at: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    summary: str = ""
    card: Card | None = None
    settings: tuple[Setting, ...] = ()
    more_settings: str = ""
    step: float | None = None
    memory: float | None = None
    variants: tuple[Cost, ...] = ()
    problem: str = ""

    def content(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def methods() -> list[Method]:
    """Every hook, ours first, then every stage kind.

    Raises:
        StoreError: the file of measured costs is damaged.
    """
    costs = _costs()
    found = [_ours(name, costs) for name in table.TABLE]
    # A package that two folders of sys.path hold is listed once.
    entries = dict.fromkeys(metadata.entry_points(group="cpt.hooks"))
    found += [_theirs(entry, costs) for entry in entries]
    return found + [_kind(name, costs) for name in KINDS]


def method(name: str) -> Method:
    """The hook or stage kind of a name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    found = {each.name: each for each in reversed(methods())}
    if name not in found:
        raise RecipeError(f"methods: no hook or stage kind {name!r}{did_you_mean(name, found)}")
    return found[name]


def _ours(name: str, costs: Mapping[str, Any]) -> Method:
    return _hook(name, table.hook_class(name, "methods"), "cpt", costs)


def _theirs(entry: metadata.EntryPoint, costs: Mapping[str, Any]) -> Method:
    package = entry.dist.name if entry.dist else "unknown"
    chosen = table.others().get(entry.name)
    if chosen is None or chosen != entry:  # an EntryPoint does not compare with None
        owner = "cpt" if entry.name in table.TABLE else "another package"
        problem = f"{entry.value} of {package} is not used: {owner} has a hook of that name"
        return Method(entry.name, "hook", package, problem=problem)
    try:
        return _hook(entry.name, table.hook_class(entry.name, "methods"), package, costs)
    except RecipeError as error:
        problem = str(error).removeprefix(f"methods: hooks.{entry.name}: ").splitlines()[0]
        return Method(entry.name, "hook", package, problem=problem)


def _hook(name: str, kind: type[Hook], package: str, costs: Mapping[str, Any]) -> Method:
    return Method(
        name,
        "hook",
        package,
        acts_at=points_of(kind),
        stages=tuple(
            each
            for each in KINDS
            if kind_of(each, "methods").trains and (kind.kinds is None or each in kind.kinds)
        ),
        backends=_backends(name, kind.needs, kind.facts),
        summary=_summary(kind),
        card=kind.card,
        settings=_settings(kind),
        **costs.get(name, {}),
    )


def _kind(name: str, costs: Mapping[str, Any]) -> Method:
    kind = kind_of(name, "methods")
    return Method(
        name,
        "stage kind",
        acts_at=kind.formats,
        stages=tuple(sorted(kind.roles)),
        backends=_backends(name),
        summary=_summary(type(kind)),
        card=kind.card,
        settings=_train_settings(kind) if kind.trains else _merge_settings(),
        more_settings=_MORE.format(kind.config) if kind.trains else "",
        **costs.get(name, {}),
    )


def _backends(
    name: str, needs: Collection[str] = (), facts: Collection[str] = ()
) -> tuple[str, ...]:
    """The backends that a stage with it runs on, by what a plan asks; variants are as their base."""
    asked = Asked("", frozenset((name, need) for need in needs), frozenset(facts))
    bases = [each for each in BACKENDS.values() if each.name == each.base]
    return tuple(each.name for each in bases if not refused(each, asked))


def _summary(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _settings(kind: type[Hook]) -> tuple[Setting, ...]:
    """The settings of a hook: types and defaults from its fields, what they do from its docstring."""
    types = table.types_of(kind)
    said = documented(inspect.getdoc(kind) or "")
    return tuple(
        Setting(
            setting.name,
            type_text(types[setting.name]),
            default_text(setting),
            said.get(setting.name, ""),
        )
        for setting in fields(kind)  # type: ignore[arg-type]
        if setting.init
    )


def _train_settings(kind: StageKind) -> tuple[Setting, ...]:
    """The fields of `train:` that this kind has and not every kind."""
    return tuple(
        Setting(
            name, " or ".join(entry["type"]), json.dumps(entry["default"]), entry.get("help", "")
        )
        for name, entry in sorted(own_fields(kind.config).items())
    )


def _merge_settings() -> tuple[Setting, ...]:
    """The settings under `merge:`, those of all methods first, as `method: setting`."""
    every = list(_fields_of(MergeMethod, "every method"))
    for kind in get_args(get_args(MergeSpec)[0]):
        method = " or ".join(get_args(kind.model_fields["method"].annotation))
        every += _fields_of(kind, method, {"method", *MergeMethod.model_fields})
    return tuple(every)


def _fields_of(
    kind: type[MergeMethod], method: str, hidden: Collection[str] = ()
) -> Iterator[Setting]:
    said: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        said |= documented(inspect.cleandoc(owner.__doc__ or ""))
    for name, field in kind.model_fields.items():
        if name not in hidden:
            default = "needed" if field.is_required() else in_yaml(field.get_default())
            words = ", ".join([type_text(field.annotation), *bounds(field.metadata)])
            yield Setting(f"{method}: {name}", words, default, said.get(name, ""))


def _costs() -> dict[str, dict[str, Any]]:
    """Measured costs by method, as `Method` takes them; `name (variant)` is among the variants of `name`.

    Raises:
        StoreError: the file is damaged.
    """
    if not COSTS.is_file():
        return {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for case, cost in json.loads(COSTS.read_text(encoding="utf-8"))["costs"].items():
            told = {k: float(cost[k]) for k in ("step", "memory") if cost.get(k) is not None}
            name, _, variant = case.removesuffix(")").partition(" (")
            own = found.setdefault(name, {"variants": ()})
            if variant:
                own["variants"] += (Cost(variant, **told, relative_to=cost.get("relative_to", "")),)
            else:
                own |= told
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{COSTS}: is no file of measured costs ({error}); measure again"
        ) from None
    return found
