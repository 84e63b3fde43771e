"""A recipe opened: read, checked against kinds, suite and backend, importing neither torch nor TRL."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpt import plan as plans
from cpt import read_recipe as recipes
from cpt.errors import CptError, PlanError, RecipeError
from cpt.estimate import estimate
from cpt.hooks.base import points
from cpt.plan_table import table_of
from cpt.settings import did_you_mean
from cpt.store import Store
from eval.probe import result_path
from eval.suite import Suite, load_suite
from launch.backend import Backend, backend, environment
from launch.refusals import OF_HOOKS
from stages import kind_of
from stages.trl_args import batch_layout, check_checkpoint_every
from stages.trl_fields import check_train
from stages.workload import workload


@dataclass(frozen=True)
class Chain:
    """A recipe, its plan, its suite, and where its results live."""

    plan: plans.Plan
    suite: Suite | None
    backend: Backend
    num_processes: int
    store: Store
    command: str

    def probed(self, stage_id: str) -> bool:
        """Whether the suite's result is there."""
        return self.suite is None or result_path(self.store.stage(stage_id), self.suite).is_file()

    def is_finished(self, node: plans.Node) -> bool:
        """Whether a stage is made and measured."""
        return self.store.is_done(node.id) and self.probed(node.id)


def open_chain(path: Path, changes: Sequence[str], runs: Path, launch: str | None = None) -> Chain:
    """Read and check everything, importing neither torch nor TRL.

    Raises:
        CptError: whatever is wrong, before any weights load.
    """
    recipe = recipes.load(path, changes)
    chosen = backend(launch or recipe.launch)
    problems: list[CptError] = []
    if chosen.unfinished:
        problems.append(PlanError(f"launch: {chosen.name}: {chosen.unfinished}; use zero2 or ddp"))
    suite = None
    if recipe.probes:
        try:
            suite = load_suite(Path(recipe.probes))
        except CptError as error:
            problems.append(RecipeError(str(error)))  # bad input, whatever its own code
    size = recipe.num_processes or chosen.num_processes
    if chosen.name == "single" and size != 1:
        problems.append(
            PlanError(f"num_processes: {size}: single runs one process; use launch: ddp")
        )
    try:
        plan = plans.make(recipe, kind_of, check_train, chosen)
        _check_batches(plan, size)
        _check_backend(plan, chosen)
    except CptError as error:
        problems.insert(0, error)
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))
    options = ["--launch", launch] if launch else []
    command = shlex.join(["cpt", "run", shown(path), *changes, *options])
    if chosen.name == "single":
        os.environ.update(environment(chosen))  # one GPU, before torch looks
    return Chain(plan, suite, chosen, size, Store(runs), command)


def _check_batches(plan: plans.Plan, size: int) -> None:
    for node in plan.nodes[1:]:
        assert node.spec is not None
        kind = kind_of(node.spec.kind, node.spec.file)
        try:
            batch_layout(int(node.spec.train.get("batch_size", 8)), size, node.spec.micro_batch)
            every = node.spec.checkpoint_every or plan.recipe.checkpoint_every
            if every:
                check_checkpoint_every(kind.config, node.spec.train, every)
        except PlanError as error:
            raise PlanError(f"{node.spec.file}: {error}") from None


def _check_backend(plan: plans.Plan, chosen: Backend) -> None:
    """Refuse combinations of settings, hooks and backend files that train wrongly or not at all."""
    for node in plan.nodes[1:]:
        assert node.spec is not None
        train = node.spec.train
        acting = {point for _, hook in node.hooks for point in points(hook)}
        holds = {
            "adapter": "adapt" in acting,
            "edits_gradients": bool(acting & {"pull", "project"}),
            "fp16": bool(train.get("fp16")),
            "clips": float(train.get("max_grad_norm", 1.0)) > 0,
            "checkpointing": bool(train.get("activation_checkpointing", True)),
        }
        facts = {fact for fact, is_so in holds.items() if is_so}
        for key, hook in node.hooks:
            declared = hook.facts
            if strange := declared - OF_HOOKS.keys():
                raise PlanError(
                    f"{node.spec.file}: hooks.{key}: its `facts` has {min(strange)!r}"
                    f"{did_you_mean(min(strange), OF_HOOKS)}"
                )
            facts |= declared
        for refusal in chosen.refusals(facts):
            raise PlanError(
                f"{node.spec.file}: launch: {chosen.name}: {refusal.reason}; {refusal.instead}"
            )


def show(chain: Chain) -> str:
    """The plan as text."""
    num_probes = len(chain.suite.probes) if chain.suite else 0
    probed = chain.probed if chain.suite else None
    where = (
        f"{chain.backend.name} x {chain.num_processes}"
        if chain.num_processes > 1
        else chain.backend.name
    )
    result = result_path(Path(), chain.suite).name if chain.suite else ""
    needs = estimate(
        chain.plan, chain.store, chain.backend.name, chain.num_processes, workload, result
    )
    return table_of(chain.plan, chain.store, probed, num_probes, where, needs)


def shown(path: Path) -> str:
    """A path as short as it can be from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
