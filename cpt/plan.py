"""Recipe -> plan: ids, parents, what hooks need against what kinds and backends give. Costs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cpt.conflicts import UNKNOWN, check_hooks, check_recalls
from cpt.errors import CptError, PlanError, RecipeError
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.stack import in_order
from cpt.ids import short_hash
from cpt.recipe import Recipe, StageSpec

#: Fields of `train:` that change what is shown, not what is trained.
SHOWN_ONLY = (
    "logging_steps",
    "logging_first_step",
    "logging_strategy",
    "log_completions",
    "eval_steps",
)


class Kind(Protocol):
    """What planning asks of a stage kind."""

    @property
    def name(self) -> str:
        """Key in a recipe."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same settings would train differently."""
        ...

    @property
    def config(self) -> str:
        """The TRL config class that `train:` speaks."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Row formats, the usual one first."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Which of reference, reward, teacher it uses."""
        ...

    def check(self, spec: StageSpec, where: str) -> None:
        """Refuse what the kind cannot honour."""

    def reward_contents(self, spec: StageSpec, where: str) -> list[str]:
        """What of the rewards enters the id."""
        ...


class Backend(Protocol):
    """What planning asks of a backend."""

    @property
    def name(self) -> str:
        """Key in a recipe."""
        ...

    @property
    def gives(self) -> frozenset[str]:
        """Needs of hooks that it meets."""
        ...

    def refusal(self, need: str) -> str:
        """Why a need is not met, and what to do."""
        ...


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


def stage_inputs(
    spec: StageSpec,
    kind: Kind,
    parents: Mapping[str, str],
    hooks: Sequence[Hook],
    seed: int,
    recalled: Mapping[str, str],
) -> dict[str, Any]:
    """What a stage's id hashes: everything that would train differently, and nothing else."""
    return {
        "kind": kind.name,
        "version": kind.version,
        "parents": dict(parents),
        "data": [data.content() for data in spec.data],
        "train": {key: value for key, value in spec.train.items() if key not in SHOWN_ONLY},
        "rewards": kind.reward_contents(spec, spec.file),
        "hooks": [
            {
                "name": key,
                "version": hook.version,
                "settings": table.settings_of(hook),
                "recalls": [recalled.get(name, name) for name in hook.recalls()],
            }
            for key, hook in in_order(hooks)
        ],
        "model": spec.model.content() if spec.model else None,
        "seed": seed,
    }


def stage_id(inputs: Mapping[str, Any]) -> str:
    """`kind-` and 8 hex digits."""
    return f"{inputs['kind']}-{short_hash(dict(inputs))}"


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
    parents = {"parent": parent.id}
    for role, target in _roles(spec, kind, where).items():
        parents[role] = (parent if target == "previous" else known[target]).id
    hooks = [table.build(hook.name, dict(hook.settings), where) for hook in spec.hooks]
    lineage = _lineage(parent, earlier)
    for hook in hooks:
        check_recalls(hook, kind, lineage, kind_of, where)
    check_hooks(hooks, spec, kind, backend, where, warnings)
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


def _roles(spec: StageSpec, kind: Kind, where: str) -> dict[str, str]:
    for role in spec.roles():
        if role not in kind.roles:
            raise RecipeError(f"{where}: {role}: a {kind.name} stage has no {role}")
    roles = spec.roles()
    is_used = kind.name != "grpo" or float(spec.train.get("beta", 0.0)) != 0
    if "reference" in kind.roles and "reference" not in roles and is_used:
        roles["reference"] = "previous"
    return roles


def _lineage(parent: Node, earlier: Sequence[Node]) -> list[Node]:
    """The stages that a stage can recall: its parent, the parent's parent, and so on; oldest first."""
    by_id = {node.id: node for node in earlier}
    line = [parent]
    while (above := line[-1].parents.get("parent")) is not None and above in by_id:
        line.append(by_id[above])
    return line[::-1]
