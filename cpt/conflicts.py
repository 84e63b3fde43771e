"""What does not go together: hooks with each other, with the kind, the backend or the past."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cpt.errors import PlanError
from cpt.hooks.base import Hook, points
from cpt.model_spec import ModelSpec
from cpt.recipe import StageSpec
from cpt.settings import did_you_mean
from cpt.vocabulary import of_model

#: Ends the id of a stage that could not be planned; what comes after it is checked all the same.
UNKNOWN = "-unknown"

if TYPE_CHECKING:
    from cpt.interfaces import Backend, Kind
    from cpt.plan import Node


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
    for target in hook.recalls():
        if target != "all" and target not in names:
            hint = did_you_mean(target, [*names, "all"])
            raise PlanError(f"{own}: of: {target!r} is no stage before this one{hint}")
        if target in hook.rehearses() and _nodes(target, lineage, names)[0].kind == "base":
            raise PlanError(
                f"{own}: {target!r}: the base model left no rows; name another stage, or a data set "
                f"where the hook takes one (source:)"
            )
        if "mix" not in points(hook):
            continue
        for node in _nodes(target, lineage, names):
            if node.kind == "base":
                raise PlanError(
                    f"{own}: the base model left no rows to rehearse; name a data set: "
                    f"{hook.name}: {{source: <data config>}}"
                )
            if node.id.endswith(UNKNOWN):
                continue
            formats = kind_of(node.kind, where).formats[:1]
            if not set(formats) & set(kind.formats):
                raise PlanError(
                    f"{own}: {node.name} left {formats[0]} rows, and a {kind.name} stage trains on "
                    f"{' or '.join(kind.formats)}; name a source of that format"
                )


def _nodes(target: str, lineage: "Sequence[Node]", names: "Mapping[str, Node]") -> "Sequence[Node]":
    """The stages that a name stands for."""
    return (lineage[1:] or lineage) if target == "all" else (names[target],)


def check_hooks(
    hooks: Sequence[Hook],
    spec: StageSpec,
    kind: "Kind",
    backend: "Backend",
    where: str,
    warnings: list[str],
) -> None:
    """Refuse hooks that conflict with each other, with the kind or with the backend.

    Raises:
        PlanError: names both sides and a way out.
    """
    adapting = [hook.name for hook in hooks if "adapt" in points(hook)]
    if len(adapting) > 1:
        raise PlanError(
            f"{where}: hooks: {' and '.join(adapting)} both change what is trained; keep one"
        )
    for single in ("ema", "interpolate"):
        if sum(hook.name == single for hook in hooks) > 1:
            raise PlanError(f"{where}: hooks: {single} is listed twice; it has one result")
    shares = [getattr(hook, "share", 0.0) for hook in hooks if hook.name == "replay"]
    if sum(shares) >= 1:
        raise PlanError(
            f"{where}: hooks: replay shares sum to {sum(shares):g} and leave nothing for new data"
        )
    if len({getattr(hook, "unit", "") for hook in hooks if hook.name == "replay"}) > 1:
        raise PlanError(
            f"{where}: hooks: replay entries count in different units; use tokens or samples for all"
        )
    if any(hook.name == "kl" for hook in hooks) and kind.uses("reference", spec):
        warnings.append(
            f"{where}: kl and {kind.name}'s own beta both hold the model to an earlier stage"
        )
    for hook in hooks:
        if hook.kinds is not None and kind.name not in hook.kinds:
            others = ", ".join(sorted(hook.kinds))
            raise PlanError(f"{where}: hooks.{hook.name}: not in a {kind.name} stage; in {others}")
        hook.check(kind.name, f"{where}: hooks.{hook.name}")
        for need in sorted(hook.needs - backend.gives):
            raise PlanError(f"{where}: hooks.{hook.name}: {backend.refusal(need)}")


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
    adapts = any("adapt" in points(hook) for hook in hooks)
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
        if adapts and line[-1] is below[-1] and own != "hooks.interpolate":
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
    while number > 1 and any(
        getattr(hook, "after", None) == "keep" for _, hook in lineage[number - 1].hooks
    ):
        number -= 1
    return number
