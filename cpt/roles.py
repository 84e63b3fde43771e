"""The models beside its own that a stage needs: reference, reward, teacher."""

from collections.abc import Mapping

from cpt.errors import RecipeError
from cpt.interfaces import Kind
from cpt.recipe import StageSpec


def roles_of(spec: StageSpec, kind: Kind, where: str) -> dict[str, str]:
    """The earlier stages that a stage needs, by role; its reference is its parent unless it names one.

    Raises:
        RecipeError: it names a stage for a role that its kind does not have, or does not use as it is set.
    """
    roles = spec.roles()
    for role, target in roles.items():
        check_role(role, target, spec, kind, where)
    if kind.uses("reference", spec):
        roles.setdefault("reference", "previous")
    return roles


def sources_of(parents: Mapping[str, str]) -> list[str]:
    """Of a stage's parents by role, the ids of those whose weights are in its own, the main one first.

    A stage that trains has one, `parent`; one that merges has `parent`, `parent.2`, ..., and where it adds a
    change to another model `onto`.
    """
    return [parents[role] for role in parents if role == "onto" or role.startswith("parent")]


def ancestors_of(parents: Mapping[str, str]) -> list[str]:
    """Of a stage's parents by role, the ids of those that are its past: not models that it compares
    itself with."""
    others = ("reference", "reward", "teacher")
    return [stage_id for role, stage_id in parents.items() if role not in others]


def check_role(role: str, target: str, spec: StageSpec, kind: Kind, where: str) -> None:
    """Refuse a model for a role that the stage has no use for.

    Raises:
        RecipeError: names the role and what was given for it.
    """
    if role not in kind.roles:
        raise RecipeError(f"{where}: {role}: a {kind.name} stage has no {role}")
    if not kind.uses(role, spec):
        raise RecipeError(
            f"{where}: {role}: {target!r} is unused as train: is set; remove {role}, or change train:"
        )
