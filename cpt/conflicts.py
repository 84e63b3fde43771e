"""What does not go together: hooks with each other, with the kind, the backend or the past."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cpt.errors import PlanError
from cpt.hooks.base import Hook, points
from cpt.recipe import StageSpec
from cpt.settings import did_you_mean

#: Ends the id of a stage that could not be planned; what comes after it is checked all the same.
UNKNOWN = "-unknown"

if TYPE_CHECKING:
    from cpt.plan import Backend, Kind, Node


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
        if "mix" not in points(hook):
            continue
        for node in (lineage[1:] or lineage) if target == "all" else (names[target],):
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
    if any(hook.name == "kl" for hook in hooks) and "reference" in kind.roles:
        own = float(spec.train.get("beta", 0.1 if kind.name == "dpo" else 0.0))
        if own:
            warnings.append(
                f"{where}: kl and {kind.name}'s own beta {own:g} both hold the model to a reference"
            )
    for hook in hooks:
        if hook.kinds is not None and kind.name not in hook.kinds:
            others = ", ".join(sorted(hook.kinds))
            raise PlanError(f"{where}: hooks.{hook.name}: not in a {kind.name} stage; in {others}")
        for need in sorted(hook.needs - backend.gives):
            raise PlanError(f"{where}: hooks.{hook.name}: {backend.refusal(need)}")
