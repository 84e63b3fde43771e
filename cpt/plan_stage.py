"""One stage of a recipe -> its node: what it starts from, what of it is refused, and its id."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cpt.adapter_rules import check_adapters
from cpt.conflicts import check_hooks, check_parts, check_rate, check_recalls, check_shapes
from cpt.errors import CptError, PlanError, RecipeError
from cpt.hooks import table
from cpt.hooks.stack import in_order
from cpt.interfaces import Kind
from cpt.joint import Joined, join, joined_so_far
from cpt.merging.checks import check_lineage
from cpt.nodes import Node
from cpt.recipe import Recipe, StageSpec
from cpt.roles import ancestors_of, roles_of
from cpt.stage_id import stage_id, stage_inputs
from cpt.watch import WatchSpec

#: (a merge's settings, its file) -> hash of the probe that it chooses by, if it does.
Steering = Callable[[Any, str], str | None]
#: (a stage's `watch`, its file) -> hash of what it is looked at with and of what ends it; empty without.
Watching = Callable[[WatchSpec, str], str]


def node_of(
    recipe: Recipe,
    name: str,
    spec: StageSpec,
    earlier: Sequence[Node],
    kind_of: Callable[[str, str], Kind],
    check_train: Callable[[str, Mapping[str, Any], str], dict[str, Any]],
    warnings: list[str],
    suite_hash: str,
    steering: Steering,
    watching: Watching,
) -> Node:
    """Resolve one stage.

    Args:
        earlier: the nodes before, as later stages see them.
        warnings: told what a person should know.

    Raises:
        RecipeError, PlanError, DataError: what is wrong with it.
    """
    where = spec.file or f"{recipe.file}: stages.{name}"
    kind = kind_of(spec.kind, where)
    train = check_train(kind.config, spec.train, where) if kind.trains else spec.train
    watch = _watch(recipe, spec) if kind.trains else spec.watch
    spec = spec.model_copy(update={"train": train, "file": where, "watch": watch})
    if recipe.baseline is not None:
        spec = spec.model_copy(update={"hooks": []})
    check_parts(spec, kind, where)
    kind.check(spec, where)
    check_rate(spec, recipe.model, where)
    if any(data.streaming for data in spec.data) and int(spec.train.get("max_steps", -1)) <= 0:
        raise PlanError(f"{where}: streaming data has no end; set train.max_steps")
    if spec.hygiene.probes in ("drop", "refuse") and recipe.probes is None:
        raise PlanError(
            f"{where}: hygiene.probes: {spec.hygiene.probes}, and the chain has no probes; name a suite "
            f"under `probes:`, or remove it"
        )
    if spec.rewards and "prompt" not in kind.formats:
        raise RecipeError(
            f"{where}: rewards: a {kind.name} stage samples nothing to reward; remove it"
        )
    sources = _sources(spec, kind, earlier, where)
    seed = spec.seed if spec.seed is not None else recipe.seed
    joined: tuple[Joined, ...] = ()
    if recipe.baseline == "joint" and kind.joins:
        before = _lineage(sources, earlier)
        joined = (*joined_so_far(before), Joined(name, spec, seed))
        spec = join(joined, kind_of, where)
        if lost := [node.name for node in before[1:] if not node.joined]:
            warnings.append(
                f"{where}: baseline joint: starts from the base model, without what {', '.join(lost)} "
                f"made; only labelled text is joined"
            )
        sources = [earlier[0]]
    parent = sources[0]
    known = {node.name: node for node in earlier}
    roles = {
        role: parent if target == "previous" else known[target]
        for role, target in roles_of(spec, kind, where).items()
    }
    places = {
        role: earlier[-1] if target == "previous" else known[target]
        for role, target in (spec.merge.places() if spec.merge else {}).items()
    }
    if spec.merge and not spec.merge.unrelated:
        lines = {node.name: [n.name for n in _lineage([node], earlier)] for node in sources}
        base = places.get("base")
        check_lineage(lines, base.name if base else None, where)
    further = {f"parent.{number}": node for number, node in enumerate(sources[1:], start=2)}
    named = {"parent": parent, **further, **places, **roles}
    parents = {role: node.id for role, node in named.items()}
    hooks = [table.build(hook.name, dict(hook.settings), where) for hook in spec.hooks]
    lineage = _lineage([*sources, *places.values()], earlier)
    for hook in hooks:
        check_recalls(hook, kind, lineage, kind_of, where)
    check_hooks(hooks, spec, kind, where, warnings)
    check_adapters(hooks, lineage, where)
    beside = {role: _lineage([node], earlier) for role, node in roles.items()}
    check_shapes(hooks, beside, spec, lineage, recipe.model, where, warnings)
    recalled = {node.name: node.id for node in earlier}
    try:
        steered = steering(spec.merge, where) if spec.merge else None
        watched = watching(spec.watch, where) if spec.watch else ""
        inputs = stage_inputs(
            spec, kind, parents, hooks, seed, recalled, suite_hash, steered, watched
        )
        if len(joined) > 1:  # alone it is the naive stage
            inputs["joined"] = [_joined_inputs(each, kind_of, where, suite_hash) for each in joined]
    except CptError as error:  # a data set that is not there, say; the stage that wants it is named
        raise type(error)(f"{where}: {error}") from None
    return Node(
        name,
        kind.name,
        stage_id(inputs),
        spec,
        seed,
        parents,
        inputs,
        tuple(in_order(hooks)),
        joined,
    )


def _watch(recipe: Recipe, spec: StageSpec) -> WatchSpec | None:
    """The stage's own, or the chain's; no look ends a stage of a baseline, which takes all of its steps."""
    watch = (recipe.watch if spec.watch is None else spec.watch) or None
    if watch and recipe.baseline is not None:
        return watch.model_copy(update={"stop": False})
    return watch


def _joined_inputs(
    joined: Joined, kind_of: Callable[[str, str], Kind], where: str, suite_hash: str
) -> dict[str, Any]:
    """What of a joined stage decides about its rows and about those that it leaves."""
    kind = kind_of(joined.spec.kind, where)
    inputs = stage_inputs(joined.spec, kind, {}, (), joined.seed, {}, suite_hash)
    kept = ("kind", "version", "data", "train", "seed", "hygiene", "exemplars")
    return {key: inputs[key] for key in kept if key in inputs}


def _sources(spec: StageSpec, kind: Kind, earlier: Sequence[Node], where: str) -> list[Node]:
    """The stages that `from` names; one, but for a stage that merges."""
    targets = spec.from_ if isinstance(spec.from_, list) else [spec.from_]
    if kind.trains and len(targets) != 1:
        raise PlanError(
            f"{where}: from: a {spec.kind} stage continues one stage, not {len(targets)}"
        )
    known = {node.name: node for node in earlier} | {"previous": earlier[-1]}
    return [known[target] for target in targets]


def _lineage(nodes: Sequence[Node], earlier: Sequence[Node]) -> list[Node]:
    """The stages that one which starts from `nodes` can recall: these, their parents, and so on;
    oldest first."""
    wanted = {node.id for node in nodes}
    by_id = {node.id: node for node in earlier}  # in order; parents come before children
    for node in reversed(by_id.values()):
        if node.id in wanted:
            wanted |= {*ancestors_of(node.parents)}
    return [node for node in by_id.values() if node.id in wanted]
