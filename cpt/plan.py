"""Recipe -> plan: ids, parents, and what does not go together. Costs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cpt.conflicts import UNKNOWN
from cpt.errors import CptError, PlanError
from cpt.interfaces import Kind
from cpt.nodes import Node, Plan
from cpt.plan_stage import Steering, Watching, node_of
from cpt.recipe import Recipe, StageSpec
from cpt.remedy import Judge, Remedy, passes

__all__ = ["Node", "Plan", "make"]


def make(
    recipe: Recipe,
    kind_of: Callable[[str, str], Kind],
    check_train: Callable[[str, Mapping[str, Any], str], dict[str, Any]],
    suite_hash: str = "",
    steering: Steering = lambda merge, where: None,
    watching: Watching = lambda watch, where: "",
    judge: Judge = passes,
) -> Plan:
    """Resolve a recipe into nodes with ids.

    Args:
        suite_hash: of the recipe's probes, whose items a stage may drop from its data.
        judge: what the gate says of a stage; what it puts in a stage's place is what later stages start
            from, compare themselves with and recall under the stage's name.

    Raises:
        RecipeError, PlanError, DataError: everything that is wrong, one line each, before any weights load.
    """
    nodes = [Node("base", "base", recipe.model.id(), inputs=recipe.model.content())]
    earlier = list(nodes)  # as later stages see them
    problems: list[CptError] = []
    warnings: list[str] = []
    awaits: list[str] = []
    for name, spec in recipe.stages.items():
        try:
            node = node_of(
                recipe,
                name,
                spec,
                earlier,
                kind_of,
                check_train,
                warnings,
                suite_hash,
                steering,
                watching,
            )
            found = judge(node)
        except CptError as error:
            problems.append(error)
            # A stand-in with the right parent, so that later stages are checked too.
            nodes.append(_stand_in(name, spec, earlier))
            earlier.append(nodes[-1])
            continue
        awaits += [] if found.is_known else [name]
        nodes += [node, _made_by_gate(node, found.remedy)] if found.remedy else [node]
        earlier.append(replace(node, id=nodes[-1].id))
    if problems:
        worst = PlanError if any(isinstance(p, PlanError) for p in problems) else type(problems[0])
        raise worst("\n".join(dict.fromkeys(str(problem) for problem in problems)))
    name = recipe.name if recipe.baseline is None else f"{recipe.name}-{recipe.baseline}"
    return Plan(recipe, name, tuple(nodes), tuple(dict.fromkeys(warnings)), tuple(awaits))


def _made_by_gate(node: Node, remedy: Remedy) -> Node:
    return Node(
        f"{node.name}.{remedy.kind}",
        remedy.kind,
        remedy.id,
        seed=node.seed,
        parents={"parent": node.id, "parent.2": remedy.parent},
        inputs=remedy.inputs,
        stands_for=node.name,
    )


def _stand_in(name: str, spec: StageSpec, earlier: Sequence[Node]) -> Node:
    targets = spec.from_ if isinstance(spec.from_, list) else [spec.from_]
    parent = next((node for node in earlier if node.name == targets[0]), earlier[-1])
    return Node(name, spec.kind, f"{name}{UNKNOWN}", spec, parents={"parent": parent.id})
