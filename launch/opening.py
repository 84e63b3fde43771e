"""A recipe opened: read, checked against kinds, suite and backend, importing neither torch nor TRL."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from cpt import plan as plans
from cpt import read_recipe as recipes
from cpt.determinism import set_variables
from cpt.errors import CptError, RecipeError
from cpt.estimate import Estimate, estimate
from cpt.machine_spec import Machine, this_machine
from cpt.plan_table import table_of
from cpt.recipe import Recipe
from cpt.redact import redact, secrets_in
from cpt.store import Store
from eval.noise import second_of
from eval.probe import result_path
from eval.suite import Suite, load_suite
from launch.backend import Backend, backend, environment
from launch.checks import check_owners, num_processes
from launch.gate_rules import check_gate, warnings, without_effect
from launch.honoured import misfits_and_refusals, others_for
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
        return replace(self, plan=_plan(recipe, self.suite, self.store))

    def probed(self, stage_id: str) -> bool:
        """Whether the suite's result is there."""
        return self.suite is None or result_path(self.store.stage(stage_id), self.suite).is_file()

    def needs(self, machine: Machine | None = None) -> Estimate:
        """Memory, disk and time of what is to do, on a machine; None for this one."""
        result = result_path(Path(), self.suite).name if self.suite else ""
        return estimate(
            self.plan,
            self.store,
            self.backend.name,
            self.num_processes,
            workload,
            result,
            machine or this_machine(self.store.root),
            self.backend.num_machines,
            others_for(self.plan, self.backend) if self.num_processes > 1 else (),
        )

    def is_finished(self, node: plans.Node) -> bool:
        """Whether a stage is made and measured, the base model twice where the recipe says so."""
        if not (self.store.is_done(node.id) and self.probed(node.id)):
            return False
        if node.kind != "base" or not self.plan.recipe.gate.noise or self.suite is None:
            return True
        return second_of(result_path(self.store.stage(node.id), self.suite)).is_file()


def open_chain(
    path: Path,
    changes: Sequence[str],
    runs: Path,
    launch: str | None = None,
    deterministic: bool = False,
) -> Chain:
    """Read and check everything, importing neither torch nor TRL.

    Args:
        path: the recipe.
        changes: `path=value` each.
        runs: the store's folder.
        launch: backend instead of the recipe's.
        deterministic: the recipe's `deterministic`, whatever it says.

    Raises:
        CptError: whatever is wrong, before any weights load.
    """
    recipe = recipes.load(path, changes)
    if deterministic:
        recipe = recipe.model_copy(update={"deterministic": True})
    chosen = backend(launch or recipe.launch)
    problems: list[CptError] = [
        RecipeError(f"{path}: {place}: holds {what}; credentials belong into the environment alone")
        for place, what in secrets_in(recipe.model_dump(mode="json", by_alias=True))
    ]
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
    plan = None
    try:
        plan = _plan(recipe, suite, Store(runs))
    except CptError as error:
        problems.insert(0, error)
    problems += misfits_and_refusals(recipe, plan, chosen)
    if problems or plan is None:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))
    size = num_processes(chosen, recipe.num_processes)
    options = ["--launch", launch] if launch else []
    options += ["--deterministic"] if deterministic else []
    command = shlex.join(map(redact, ["cpt", "run", shown(path), *changes, *options]))
    if chosen.name == "single":
        os.environ.update(environment(chosen))  # one GPU, before torch looks
        if recipe.deterministic:
            set_variables()
    return Chain(plan, suite, chosen, size, Store(runs), command)


def _plan(recipe: Recipe, suite: Suite | None, store: Store) -> plans.Plan:
    gate = Gate(recipe, suite, store)
    plan = plans.make(
        recipe,
        kind_of,
        check_train,
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


def show(chain: Chain, machine: Machine | None = None) -> str:
    """The plan as text, with what it needs of a machine; None for this one."""
    from launch.keeping import told

    num_probes = len(chain.suite.probes) if chain.suite else 0
    probed = chain.probed if chain.suite else None
    where = (
        f"{chain.backend.name} x {chain.num_processes}"
        if chain.num_processes > 1
        else chain.backend.name
    )
    plan = replace(chain.plan, warnings=(*chain.plan.warnings, *told(chain)))
    return table_of(plan, chain.store, probed, num_probes, where, chain.needs(machine))


def shown(path: Path) -> str:
    """A path as short as it can be from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
