"""The past of a stage that is started by hand, as the rules of planning see it."""

from cpt import manifest
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.past import Past, PastStage
from cpt.plan import Node


def nodes(past: Past) -> list[Node]:
    """The stages of a past as those of a plan, the parent last.

    A hook of theirs that is not installed here is left out: only the stage that listed it needed it.
    """
    return [_node(stage) for stage in past]


def _node(stage: PastStage) -> Node:
    if stage.folder is None or not (stage.folder / "manifest.json").is_file():
        return Node(stage.name, stage.kind, stage.id)
    entry = manifest.read(stage.folder)
    where = str(stage.folder / "manifest.json")
    hooks: list[tuple[str, Hook]] = []
    for listed in entry.hooks:
        name = str(listed["name"]).partition(".")[0]  # a second `replay` is `replay.2`
        if name in table.names():
            hooks.append((listed["name"], table.build(name, listed["settings"], where)))
    return Node(
        stage.name,
        stage.kind,
        stage.id,
        parents=entry.parents,
        inputs=entry.inputs,
        hooks=tuple(hooks),
    )
