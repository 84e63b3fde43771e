"""What does not go together: hooks with each other, with the kind or the past."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cpt.combinations import check_combinations
from cpt.errors import PlanError, RecipeError
from cpt.hooks.base import Hook, points
from cpt.hooks.lora import is_adapter, stays_apart
from cpt.model_spec import ModelSpec
from cpt.recipe import StageSpec
from cpt.settings import did_you_mean
from cpt.vocabulary import of_model

#: Ends the id of a stage that could not be planned; what comes after it is checked all the same.
UNKNOWN = "-unknown"

if TYPE_CHECKING:
    from cpt.interfaces import Kind
    from cpt.plan import Node


def check_parts(spec: StageSpec, kind: "Kind", where: str) -> None:
    """Refuse `merge:` in a stage that trains, and `watch:` in one that does not.

    Raises:
        RecipeError: says what to remove.
    """
    if not kind.trains and spec.watch:
        raise RecipeError(f"{where}: watch: a {kind.name} stage has no steps to look at; remove it")
    if kind.trains and spec.merge is not None:
        raise RecipeError(
            f"{where}: merge: a {kind.name} stage trains; remove it, or write kind: merge in a stage of "
            f"its own"
        )


def check_recalls(
    hook: Hook,
    kind: "Kind",
    lineage: Sequence["Node"],
    kind_of: "Callable[[str, str], Kind]",
    where: str,
) -> None:
    """Refuse a hook that reads stages which are not there, or which left nothing that it can use.

    Raises:
        PlanError: names the stage and what to write instead.
    """
    own = f"{where}: hooks.{hook.name}"
    names = {node.name: node for node in lineage} | {"previous": lineage[-1]}
    num_chosen = len(_nodes("all", lineage, names) if "all" in hook.recalls() else hook.recalls())
    if hook.most_stages is not None and num_chosen > hook.most_stages:
        raise PlanError(
            f"{own}: of: {num_chosen} stages, and each costs time and memory in every step; name "
            f"{hook.most_stages} at most, or list a hook that takes them as one, such as agem or replay"
        )
    for target in hook.recalls():
        if target != "all" and target not in names:
            hint = did_you_mean(target, [*names, "all"])
            raise PlanError(f"{own}: of: {target!r} is no stage before this one{hint}")
        reached = _nodes(target, lineage, names)
        if hook.reads_memory:
            for node in reached:
                if not node.id.endswith(UNKNOWN) and hook.name not in {
                    h.name for _, h in node.hooks
                }:
                    trains = node.kind != "base" and kind_of(node.kind, where).trains
                    raise PlanError(
                        f"{own}: of: {node.name} does not list {hook.name}, which measures while a stage "
                        f"trains; list it there too, or protect it with another hook"
                        if trains
                        else f"{own}: of: {node.name} was not trained here, and {hook.name} measures while a "
                        f"stage trains; name stages that list it, or protect it with another hook"
                    )
        if target not in hook.rehearses():
            continue
        for node in reached:
            if node.kind == "base":
                raise PlanError(
                    f"{own}: {target!r}: the base model left no rows; name another stage, or a data set "
                    f"({hook.name}: {{source: <data config>}}) where the hook takes one"
                )
            if node.id.endswith(UNKNOWN):
                continue
            formats = _formats_left(node, lineage, kind_of, where)
            if hook.learns_answers() and formats <= {"prompt"} and target != "all":
                raise PlanError(
                    f"{own}: {node.name} left no row with an answer, and so nothing to rehearse; name a "
                    f"stage that left texts, chats or pairs, or a data set: source: <data config>"
                )
            if not formats and target == "all":
                continue  # `all` are those that left rows
            if not formats:
                raise PlanError(
                    f"{own}: {node.name} merged models that left no rows to rehearse; name a data set: "
                    f"{hook.name}: {{source: <data config>}}"
                )
            if "mix" in points(hook) and not formats <= {*kind.formats}:
                raise PlanError(
                    f"{own}: {node.name} left {' and '.join(sorted(formats))} rows, and a {kind.name} stage "
                    f"trains on {' or '.join(kind.formats)}; name a source of that format"
                )


def _formats_left(
    node: "Node",
    lineage: "Sequence[Node]",
    kind_of: "Callable[[str, str], Kind]",
    where: str,
) -> set[str]:
    """Formats of the rows that a stage left; a merge leaves those of what it merged."""
    if node.kind == "base" or node.id.endswith(UNKNOWN):
        return set()
    kind = kind_of(node.kind, where)
    if kind.trains:
        return {*kind.formats[:1]}
    merged = [other for other in lineage if other.id in node.merged]
    return {name for other in merged for name in _formats_left(other, lineage, kind_of, where)}


def _nodes(target: str, lineage: "Sequence[Node]", names: "Mapping[str, Node]") -> "Sequence[Node]":
    """The stages that a name stands for."""
    if target != "all":
        return (names[target],)
    return [node for node in lineage if node.kind != "base"] or lineage


def check_hooks(
    hooks: Sequence[Hook],
    spec: StageSpec,
    kind: "Kind",
    where: str,
    warnings: list[str],
) -> None:
    """Refuse hooks that conflict with each other or with the kind.

    Raises:
        PlanError: names both sides and a way out.
    """
    check_combinations(hooks, spec, kind, where, warnings)
    for hook in hooks:
        if hook.kinds is not None and kind.name not in hook.kinds:
            others = ", ".join(sorted(hook.kinds))
            raise PlanError(f"{where}: hooks.{hook.name}: not in a {kind.name} stage; in {others}")
        hook.check(kind.name, f"{where}: hooks.{hook.name}")


def check_rate(spec: StageSpec, model: ModelSpec, where: str) -> None:
    """Refuse to pretrain on at a higher rate than the base model ever had: it would begin to forget at once.

    Raises:
        PlanError: names the rate and the peak of the base model's pretraining, where that is known.
    """
    rate, peak = float(spec.train.get("learning_rate", 0.0)), model.peak_learning_rate
    if spec.kind == "pretrain" and peak is not None and rate > peak:
        raise PlanError(
            f"{where}: train.learning_rate: {rate:g} is above the peak of the base model's own "
            f"pretraining, {peak:g}; warm up to 0.1 to 0.5 of it, {peak / 10:g} to {peak / 2:g}"
        )


def check_shapes(
    hooks: Sequence[Hook],
    roles: "Mapping[str, Sequence[Node]]",
    spec: StageSpec,
    lineage: "Sequence[Node]",
    model: ModelSpec,
    where: str,
    warnings: list[str],
) -> None:
    """Refuse hooks and roles whose model has other embeddings than this stage's, for tokens added since.

    Args:
        hooks, spec, lineage: of the stage.
        roles: the lineage of each role's model, itself last.
        model: what the chain starts from.
        where: the stage's file.
        warnings: told where the base model's files are not here and the stage will look itself.

    Raises:
        PlanError: names the tokens and a way out.
    """
    below = lineage[: _num_below_adapters(lineage)]
    has_adapter = any(is_adapter(hook) for hook in hooks)
    named = {node.name: lineage[: number + 1] for number, node in enumerate(lineage)}
    named["previous"] = lineage
    others = [
        (f"hooks.{hook.name}", line)
        for hook in hooks
        for name in hook.compared()
        for line in ([lineage] if name == "all" else [named[name]])
    ]
    for own, line in [*roles.items(), *others]:
        # Below an adapter the stage's own start is no second model: it has the stage's embeddings.
        if has_adapter and line[-1] is below[-1] and own != "hooks.interpolate":
            continue
        here, there = _added(lineage, spec), _added(line)
        if {*here} == {*there}:
            continue
        vocabulary = of_model(model)
        start = list(model.add_tokens)
        more = [token for token in here if token not in there] or there
        told = f"{', '.join(map(repr, more[:3]))}{' ...' if len(more) > 3 else ''}"
        if vocabulary is None:
            warnings.append(
                f"{where}: {own}: {line[-1].name} lacks {told}; where the tokens need new embeddings, the "
                f"stage is refused when it begins, since the two models then differ in shape"
            )
        elif vocabulary.growth(start + here) != vocabulary.growth(start + there):
            raise PlanError(
                f"{where}: {own}: {line[-1].name} and this stage differ in {told} (model: add_tokens), "
                f"and so in the shape of their embeddings; add the tokens in the chain's model config, "
                f"so that every stage has them, or name a stage that has them"
            )


def _added(line: "Sequence[Node]", spec: StageSpec | None = None) -> list[str]:
    """The tokens that the stages of a lineage add, and those of one more stage."""
    stages = [*(node.spec for node in line), spec]
    changes = [stage.model for stage in stages if stage and stage.model]
    return list(dict.fromkeys(token for change in changes for token in change.add_tokens))


def _num_below_adapters(lineage: "Sequence[Node]") -> int:
    """How much of a lineage lies below the adapters that the last stages keep apart."""
    number = len(lineage)
    while number > 1 and stays_apart([hook for _, hook in lineage[number - 1].hooks]):
        number -= 1
    return number
