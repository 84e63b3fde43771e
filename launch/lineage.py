"""The past of a stage that is started by hand, as the rules of planning see it."""

from dataclasses import dataclass
from typing import Any

from cpt import manifest
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.past import Past, PastStage
from cpt.plan import Node


def nodes(past: Past) -> list[Node]:
    """The stages of a past as those of a plan, the parent last.

    Rules ask which hooks a stage listed, and how it set those that train an adapter. Of all others, which
    need not be installed here, the name is enough.
    """
    return [_node(stage) for stage in past]


@dataclass
class _Listed(Hook):
    """A hook of which nothing is known but its name, which is its key."""


def _node(stage: PastStage) -> Node:
    if stage.folder is None or not (stage.folder / "manifest.json").is_file():
        return Node(stage.name, stage.kind, stage.id)
    entry = manifest.read(stage.folder)
    where = str(stage.folder / "manifest.json")
    return Node(
        stage.name,
        stage.kind,
        stage.id,
        parents=entry.parents,
        inputs=entry.inputs,
        hooks=tuple((str(h["name"]), _hook(h, where)) for h in entry.hooks),
    )


def _hook(listed: dict[str, Any], where: str) -> Hook:
    name = str(listed["name"]).partition(".")[0]  # a second `replay` is `replay.2`
    if name in table.names() and "adapter" in table.hook_class(name, where).needs:
        return table.build(name, listed["settings"], where)
    known: Hook = type("Listed", (_Listed,), {"name": name})()
    return known
