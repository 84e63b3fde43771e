"""What an adapter asks of the stages before it, as far as planning can know it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cpt.conflicts import UNKNOWN
from cpt.errors import PlanError
from cpt.hooks import table
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
        if isinstance(hook, OLora):
            names = {node.name: node for node in lineage} | {"previous": lineage[-1]}
            everything = [node for node in lineage if node.kind != "base"]
            chosen = everything if hook.of == "all" else [names[name] for name in hook.recalls()]
            for node in chosen:
                if node.id.endswith(UNKNOWN):
                    continue
                if problem := hook.differs(_settings(node), node.name):
                    raise PlanError(f"{where}: hooks.o_lora: {problem}")


def _settings(node: "Node") -> dict[str, Mapping[str, Any]]:
    return {key: table.settings_of(hook) for key, hook in node.hooks}
