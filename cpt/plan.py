"""Recipe -> plan: ids, parents, what hooks need against what kinds and backends give. Costs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cpt.adapter_rules import check_adapters
from cpt.conflicts import UNKNOWN, check_hooks, check_recalls, check_shapes
from cpt.errors import CptError, PlanError, RecipeError
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.stack import in_order
from cpt.interfaces import Backend, Kind
from cpt.recipe import Recipe, StageSpec
from cpt.roles import roles_of
from cpt.stage_id import stage_id, stage_inputs


@dataclass(frozen=True)
class Node:
    """One stage of a plan, or the base model."""

    name: str
    kind: str
    id: str
    spec: StageSpec | None = None
    seed: int = 0
    parents: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    hooks: tuple[tuple[str, Hook], ...] = ()


@dataclass(frozen=True)
class Plan:
    """A chain in order, the base model first."""

    recipe: Recipe
    name: str
    nodes: tuple[Node, ...]
    warnings: tuple[str, ...]

    def node(self, name: str) -> Node:
        """The node of a name."""
        return next(node for node in self.nodes if node.name == name)


def make(
    recipe: Recipe,
    kind_of: Callable[[str, str], Kind],
    check_train: Callable[[str, Mapping[str, Any], str], dict[str, Any]],
    backend: Backend,
) -> Plan:
    """Resolve a recipe into nodes with ids.

    Raises:
        RecipeError, PlanError, DataError: everything that is wrong, one line each, before any weights load.
    """
    nodes = [Node("base", "base", recipe.model.id(), inputs=recipe.model.content())]
    problems: list[CptError] = []
    warnings: list[str] = []
    for name, spec in recipe.stages.items():
        try:
            nodes.append(_node(recipe, name, spec, nodes, kind_of, check_train, backend, warnings))
        except CptError as error:
            problems.append(error)
            # A stand-in with the right parent, so that later stages are checked too.
            nodes.append(_stand_in(name, spec, nodes))
    if problems:
        worst = PlanError if any(isinstance(p, PlanError) for p in problems) else type(problems[0])
        raise worst("\n".join(dict.fromkeys(str(problem) for problem in problems)))
    name = recipe.name if recipe.baseline is None else f"{recipe.name}-{recipe.baseline}"
    return Plan(recipe, name, tuple(nodes), tuple(dict.fromkeys(warnings)))


def _stand_in(name: str, spec: StageSpec, earlier: Sequence[Node]) -> Node:
    targets = spec.from_ if isinstance(spec.from_, list) else [spec.from_]
    parent = next((node for node in earlier if node.name == targets[0]), earlier[-1])
    return Node(name, spec.kind, f"{name}{UNKNOWN}", spec, parents={"parent": parent.id})


def _node(
    recipe: Recipe,
    name: str,
    spec: StageSpec,
    earlier: Sequence[Node],
    kind_of: Callable[[str, str], Kind],
    check_train: Callable[[str, Mapping[str, Any], str], dict[str, Any]],
    backend: Backend,
    warnings: list[str],
) -> Node:
    where = spec.file or f"{recipe.file}: stages.{name}"
    kind = kind_of(spec.kind, where)
    spec = spec.model_copy(
        update={"train": check_train(kind.config, spec.train, where), "file": where}
    )
    if recipe.baseline == "naive":
        spec = spec.model_copy(update={"hooks": []})
    kind.check(spec, where)
    if any(data.streaming for data in spec.data) and int(spec.train.get("max_steps", -1)) <= 0:
        raise PlanError(f"{where}: streaming data has no end; set train.max_steps")
    if spec.rewards and "prompt" not in kind.formats:
        raise RecipeError(
            f"{where}: rewards: a {kind.name} stage samples nothing to reward; remove it"
        )
    parent = _parent(spec, earlier, where)
    known = {node.name: node for node in earlier}
    roles = {
        role: parent if target == "previous" else known[target]
        for role, target in roles_of(spec, kind, where).items()
    }
    parents = {"parent": parent.id, **{role: node.id for role, node in roles.items()}}
    hooks = [table.build(hook.name, dict(hook.settings), where) for hook in spec.hooks]
    lineage = _lineage(parent, earlier)
    for hook in hooks:
        check_recalls(hook, kind, lineage, kind_of, where)
    check_hooks(hooks, spec, kind, backend, where, warnings)
    check_adapters(hooks, lineage, where)
    lines = {role: _lineage(node, earlier) for role, node in roles.items()}
    check_shapes(hooks, lines, spec, lineage, recipe.model, where, warnings)
    seed = spec.seed if spec.seed is not None else recipe.seed
    recalled = {node.name: node.id for node in earlier}
    try:
        inputs = stage_inputs(spec, kind, parents, hooks, seed, recalled)
    except CptError as error:  # a data set that is not there, say; the stage that wants it is named
        raise type(error)(f"{where}: {error}") from None
    return Node(
        name, kind.name, stage_id(inputs), spec, seed, parents, inputs, tuple(in_order(hooks))
    )


def _parent(spec: StageSpec, earlier: Sequence[Node], where: str) -> Node:
    if isinstance(spec.from_, list):
        if len(spec.from_) != 1:
            raise PlanError(
                f"{where}: from: a {spec.kind} stage continues one stage, not {len(spec.from_)}"
            )
        target = spec.from_[0]
    else:
        target = spec.from_
    if target == "previous":
        return earlier[-1]
    return next(node for node in earlier if node.name == target)


def _lineage(parent: Node, earlier: Sequence[Node]) -> list[Node]:
    """The stages that a stage can recall: its parent, the parent's parent, and so on; oldest first."""
    by_id = {node.id: node for node in earlier}
    line = [parent]
    while (above := line[-1].parents.get("parent")) is not None and above in by_id:
        line.append(by_id[above])
    return line[::-1]
