"""What a stage's batches, hooks and backend must fit; asked for a chain's stages and for one by hand."""

from collections.abc import Collection, Sequence

from cpt.errors import PlanError, RecipeError
from cpt.hooks.base import Hook, points
from cpt.hooks.lora import is_adapter
from cpt.recipe import StageSpec
from cpt.settings import did_you_mean
from eval.suite import Suite
from launch.backend import Backend
from launch.nearest import Asked
from launch.nodes import check_processes
from launch.refusals import OF_HOOKS
from stages.base import StageKind
from stages.trl_args import batch_layout, check_checkpoint_every


def check_owners(suite: Suite, stages: Collection[str]) -> None:
    """Refuse probes that a stage is said to teach which the chain does not have.

    Raises:
        RecipeError: one line for each.
    """
    lines = [
        f"{suite.path}: probes.{name}.owner: the chain has no stage {probe.owner!r}"
        f"{did_you_mean(probe.owner, stages)}"
        for name, probe in suite.probes.items()
        if probe.owner is not None and probe.owner not in stages
    ]
    if lines:
        raise RecipeError("\n".join(lines))


def check_batches(spec: StageSpec, kind: StageKind, size: int, every: int | None) -> None:
    """Refuse batches that do not split over `size` processes, and checkpoints that continue inexactly.

    Raises:
        PlanError: names the stage's file and the nearest right number.
    """
    if not kind.trains:
        return
    try:
        batch_layout(int(spec.train.get("batch_size", 8)), size, spec.micro_batch)
        if every:
            check_checkpoint_every(kind.config, spec.train, every)
    except PlanError as error:
        raise PlanError(f"{spec.file}: {error}") from None


def asked(spec: StageSpec, hooks: Sequence[tuple[str, Hook]]) -> Asked:
    """What a stage asks of a backend, by its settings and its hooks.

    Args:
        hooks: (key, hook), as `in_order` gives them.

    Raises:
        PlanError: a hook says something of itself that no backend knows.
    """
    train = spec.train
    acting = {point for _, hook in hooks for point in points(hook)}
    holds = {
        "adapter": any(is_adapter(hook) for _, hook in hooks),
        "edits_gradients": bool(acting & {"pull", "project"}),
        "fp16": bool(train.get("fp16")),
        "clips": float(train.get("max_grad_norm", 1.0)) > 0,
        "checkpointing": bool(train.get("activation_checkpointing", True)),
        "watches": bool(spec.watch),
    }
    facts = {fact for fact, is_so in holds.items() if is_so}
    for key, hook in hooks:
        if strange := hook.facts_as_set() - OF_HOOKS.keys():
            raise PlanError(
                f"{spec.file}: hooks.{key}: its `facts` has {min(strange)!r}"
                f"{did_you_mean(min(strange), OF_HOOKS)}"
            )
        facts |= hook.facts_as_set()
    needs = frozenset((key, need) for key, hook in hooks for need in hook.needs_as_set())
    return Asked(spec.file, needs, frozenset(facts))


def num_processes(chosen: Backend, said: int | None) -> int:
    """Processes of a stage: what the recipe says, else the backend's file.

    Raises:
        PlanError: the backend has one process only, or machines do not share them evenly.
    """
    size = said or chosen.num_processes
    if chosen.name == "single" and size != 1:
        raise PlanError(f"num_processes: {size}: single runs one process; use launch: ddp")
    if chosen.nodes:
        check_processes(size, chosen.num_machines, chosen.name)
    return size
