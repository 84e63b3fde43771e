"""A plan: a chain's stages in order, each with its id, its parents and what its id hashes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cpt.hooks.base import Hook
from cpt.joint import Joined
from cpt.recipe import Recipe, StageSpec
from cpt.roles import sources_of


@dataclass(frozen=True)
class Node:
    """One stage of a plan, the base model, or what a gate puts in the place of a stage.

    Attributes:
        stands_for: the stage whose place it takes; empty for all other nodes.
    """

    name: str
    kind: str
    id: str
    spec: StageSpec | None = None
    seed: int = 0
    parents: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    hooks: tuple[tuple[str, Hook], ...] = ()
    joined: tuple[Joined, ...] = ()
    stands_for: str = ""

    @property
    def merged(self) -> tuple[str, ...]:
        """Ids of the stages whose weights it starts from; several where it merges them."""
        return tuple(sources_of(self.parents))


@dataclass(frozen=True)
class Plan:
    """A chain in order, the base model first; a gate's node comes after the stage that it stands for.

    Attributes:
        awaits: stages whose verdict is not known yet and could replace them; ids after these are those for
            the case that they pass.
    """

    recipe: Recipe
    name: str
    nodes: tuple[Node, ...]
    warnings: tuple[str, ...]
    awaits: tuple[str, ...] = ()

    def node(self, name: str) -> Node:
        """The node of a name."""
        return next(node for node in self.nodes if node.name == name)
