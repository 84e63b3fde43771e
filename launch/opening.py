"""A recipe opened: read, checked against kinds, suite and backend, importing neither torch nor TRL."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from cpt import plan as plans
from cpt import read_recipe as recipes
from cpt.errors import CptError, PlanError, RecipeError
from cpt.estimate import estimate
from cpt.plan_table import table_of
from cpt.recipe import Recipe
from cpt.redact import redact, secrets_in
from cpt.store import Store
from eval.noise import second_of
from eval.probe import result_path
from eval.suite import Suite, load_suite
from launch.backend import Backend, backend, environment
from launch.checks import check_backend, check_batches, check_owners, check_usable
from launch.gate_rules import check_gate, warnings, without_effect
from launch.steering import steering
from launch.verdicts import Gate
from launch.watching import watching
from stages import kind_of
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

    @cached_property
    def gate(self) -> Gate:
        """What judges its stages."""
        return Gate(self.plan.recipe, self.suite, self.store)

    def again(self) -> "Chain":
        """The chain planned anew, now that more verdicts are known; the recipe as it was read."""
        recipe = self.plan.recipe
        return replace(self, plan=_plan(recipe, self.backend, self.suite, self.store))

    def probed(self, stage_id: str) -> bool:
        """Whether the suite's result is there."""
        return self.suite is None or result_path(self.store.stage(stage_id), self.suite).is_file()

    def is_finished(self, node: plans.Node) -> bool:
        """Whether a stage is made and measured, the base model twice where the recipe says so."""
        if not (self.store.is_done(node.id) and self.probed(node.id)):
            return False
        if node.kind != "base" or not self.plan.recipe.gate.noise or self.suite is None:
            return True
        return second_of(result_path(self.store.stage(node.id), self.suite)).is_file()


def open_chain(path: Path, changes: Sequence[str], runs: Path, launch: str | None = None) -> Chain:
    """Read and check everything, importing neither torch nor TRL.

    Raises:
        CptError: whatever is wrong, before any weights load.
    """
    recipe = recipes.load(path, changes)
    chosen = backend(launch or recipe.launch)
    problems: list[CptError] = [
        RecipeError(f"{path}: {place}: holds {what}; credentials belong into the environment alone")
        for place, what in secrets_in(recipe.model_dump(mode="json", by_alias=True))
    ]
    try:
        check_usable(chosen)
    except PlanError as error:
        problems.append(error)
    suite = None
    if recipe.probes:
        try:
            suite = load_suite(Path(recipe.probes))
            check_owners(suite, recipe.stages)
        except CptError as error:
            problems.append(RecipeError(str(error)))  # bad input, whatever its own code
    try:
        check_gate(recipe, suite)
    except RecipeError as error:
        problems.append(error)
    size = recipe.num_processes or chosen.num_processes
    if chosen.name == "single" and size != 1:
        problems.append(
            PlanError(f"num_processes: {size}: single runs one process; use launch: ddp")
        )
    try:
        plan = _plan(recipe, chosen, suite, Store(runs))
        for node in plan.nodes:
            if node.spec is None:
                continue
            every = node.spec.checkpoint_every or recipe.checkpoint_every
            kind = kind_of(node.spec.kind, node.spec.file)
            check_batches(node.spec, kind, size, every)
            check_backend(node.spec, node.hooks, chosen)
    except CptError as error:
        problems.insert(0, error)
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))
    options = ["--launch", launch] if launch else []
    command = shlex.join(map(redact, ["cpt", "run", shown(path), *changes, *options]))
    if chosen.name == "single":
        os.environ.update(environment(chosen))  # one GPU, before torch looks
    return Chain(plan, suite, chosen, size, Store(runs), command)


def _plan(recipe: Recipe, chosen: Backend, suite: Suite | None, store: Store) -> plans.Plan:
    gate = Gate(recipe, suite, store)
    plan = plans.make(
        recipe,
        kind_of,
        check_train,
        chosen,
        suite.hash if suite else "",
        partial(steering, suite=suite),
        partial(watching, gate=recipe.gate),
        gate.judgement,
    )
    return replace(
        plan,
        warnings=(
            *plan.warnings,
            *without_effect(recipe, suite),
            *warnings(plan.nodes, recipe, gate.rules, store),
        ),
    )


def show(chain: Chain) -> str:
    """The plan as text."""
    from launch.keeping import told

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
    plan = replace(chain.plan, warnings=(*chain.plan.warnings, *told(chain)))
    return table_of(plan, chain.store, probed, num_probes, where, needs)


def shown(path: Path) -> str:
    """A path as short as it can be from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
