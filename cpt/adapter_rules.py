"""What an adapter asks of the stages before it, as far as planning can know it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cpt.conflicts import UNKNOWN
from cpt.errors import PlanError
from cpt.hooks import table
from cpt.hooks.anchored import Anchored
from cpt.hooks.base import Hook
from cpt.hooks.lora import Lora
from cpt.hooks.o_lora import OLora

if TYPE_CHECKING:
    from cpt.plan import Node


def check_adapters(hooks: Sequence[Hook], lineage: "Sequence[Node]", where: str) -> None:
    """Refuse to continue an adapter that is not there, or to stand orthogonal to none or to other modules'.

    Args:
        hooks: of the stage.
        lineage: the stages that it can recall, its parent last.
        where: the stage's file.

    Raises:
        PlanError: names the stage before and what to write instead.
    """
    for hook in hooks:
        if isinstance(hook, Lora) and hook.after == "continue":
            parent = lineage[-1]
            # Of a stage that could not be planned nothing is known.
            if parent.id.endswith(UNKNOWN):
                continue
            if problem := hook.differs(_settings(parent), parent.name):
                raise PlanError(f"{where}: hooks.lora: after: continue: {problem}")
            _check_anchors(hook, hooks, lineage, where)
        if isinstance(hook, OLora):
            for node in _named(hook.recalls(), lineage):
                if problem := hook.differs(_settings(node), node.name):
                    raise PlanError(f"{where}: hooks.o_lora: {problem}")


def _check_anchors(
    lora: Lora, hooks: Sequence[Hook], lineage: "Sequence[Node]", where: str
) -> None:
    """Refuse penalties on an adapter whose anchors trained no such adapter."""
    for hook in hooks:
        if isinstance(hook, Anchored) and hook.scale:
            for node in _named(hook.recalls(), lineage):
                if lora.differs(_settings(node), node.name):
                    raise PlanError(
                        f"{where}: hooks.{hook.name}: of: {node.name} left no adapter of this form on these "
                        f"weights, and what is held here is an adapter; name stages that trained it "
                        f"(lora: {{after: keep}} or continue), or train all weights"
                    )


def _named(names: Sequence[str], lineage: "Sequence[Node]") -> list["Node"]:
    """The stages that a hook names, as far as they could be planned."""
    known = {node.name: node for node in lineage} | {"previous": lineage[-1]}
    chosen = [
        node
        for name in names
        for node in (
            [each for each in lineage if each.kind != "base"] if name == "all" else [known[name]]
        )
    ]
    return [node for node in chosen if not node.id.endswith(UNKNOWN)]


def _settings(node: "Node") -> dict[str, Mapping[str, Any]]:
    return {key: table.settings_of(hook) for key, hook in node.hooks}
