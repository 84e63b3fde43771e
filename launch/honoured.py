"""A chain's stages against its backend: what is wrong is told of all of them at once, with one way out."""

from collections.abc import Sequence
from contextlib import suppress

from cpt import plan as plans
from cpt.errors import CptError, PlanError
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.stack import in_order
from cpt.recipe import Recipe, StageSpec
from cpt.sharding import sharding
from launch.backend import BACKENDS, Backend
from launch.checks import asked, check_batches, num_processes
from launch.nearest import check_stages, refused
from stages import kind_of
from stages.trl_fields import check_train

#: A stage that trains or merges, and its hooks by key.
Stage = tuple[StageSpec, Sequence[tuple[str, Hook]]]


def misfits_and_refusals(
    recipe: Recipe, plan: plans.Plan | None, chosen: Backend
) -> list[CptError]:
    """All that keeps a chain from running on a backend.

    Args:
        plan: None where the recipe cannot be planned: then its stages are asked as far as they can be read.
    """
    stages = stages_of(recipe, plan)
    return [*misfits(recipe, stages, chosen), *refusals(recipe, stages, chosen)]


def others_for(plan: plans.Plan, chosen: Backend) -> list[str]:
    """The backends that spread a model over as many machines and honour all of a chain's stages."""
    wishes = [asked(node.spec, node.hooks) for node in plan.nodes if node.spec]
    return [
        other.name
        for other in BACKENDS.values()
        if sharding(other.name).is_sharded
        and other.nodes == chosen.nodes
        and not any(refused(other, wish) for wish in wishes)
    ]


def stages_of(recipe: Recipe, plan: plans.Plan | None) -> list[Stage]:
    """What a backend is asked about; of a chain that cannot be planned those that can be read."""
    if plan is not None:
        return [(node.spec, node.hooks) for node in plan.nodes if node.spec is not None]
    found: list[Stage] = []
    for name, spec in recipe.stages.items():
        where = spec.file or f"{recipe.file}: stages.{name}"
        with suppress(CptError):  # told of by the plan
            kind = kind_of(spec.kind, where)
            train = check_train(kind.config, spec.train, where) if kind.trains else spec.train
            listed = [] if recipe.baseline else spec.hooks
            hooks = [table.build(hook.name, dict(hook.settings), where) for hook in listed]
            found.append(
                (spec.model_copy(update={"train": train, "file": where}), tuple(in_order(hooks)))
            )
    return found


def misfits(recipe: Recipe, stages: Sequence[Stage], chosen: Backend) -> list[CptError]:
    """Why the number of processes, or a stage's batches, do not suit a backend."""
    try:
        size = num_processes(chosen, recipe.num_processes)
    except PlanError as error:
        return [error]
    found: list[CptError] = []
    for spec, _ in stages:
        every = spec.checkpoint_every or recipe.checkpoint_every
        try:
            check_batches(spec, kind_of(spec.kind, spec.file), size, every)
        except CptError as error:
            found.append(error)
    return found


def refusals(recipe: Recipe, stages: Sequence[Stage], chosen: Backend) -> list[CptError]:
    """What a backend cannot honour, and the nearest one that can, with no misfit that is not told anyhow."""

    def told(other: Backend) -> set[str]:
        return {str(error) for error in misfits(recipe, stages, other)}

    try:
        wishes = [asked(spec, hooks) for spec, hooks in stages]
        check_stages(chosen, wishes, lambda other: told(other) <= told(chosen))
    except CptError as error:
        return [error]
    return []
