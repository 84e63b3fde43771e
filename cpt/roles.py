"""The models beside its own that a stage needs: reference, reward, teacher."""

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
