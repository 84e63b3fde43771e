"""What planning asks a gate: whether a stage's verdict is known, and what then stands in its place.

The verdict is a function of what is in the store, so that a plan is one of the recipe and the store.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cpt.ids import short_hash

if TYPE_CHECKING:
    from cpt.plan import Node


@dataclass(frozen=True)
class Remedy:
    """What a gate puts in the place of a stage that regressed.

    Attributes:
        kind: the action, and how the node's id begins.
        inputs: what its id hashes: result, suite, margins, version of the gate, and what the choice depends
            on; nothing of stages that come later.
        parent: id of the stage that it goes back to; several may have been merged.
    """

    kind: Literal["rollback", "repair"]
    inputs: Mapping[str, Any]
    parent: str

    @property
    def id(self) -> str:
        """`rollback-` or `repair-` and 8 hex digits."""
        return f"{self.kind}-{short_hash(dict(self.inputs))}"


@dataclass(frozen=True)
class Judgement:
    """What is known of a stage when planning.

    Attributes:
        is_known: whether it is made and measured, or no gate could replace it.
        remedy: what takes its place; None where it passes, or as long as nothing is known.
    """

    is_known: bool = True
    remedy: Remedy | None = None


Judge = Callable[["Node"], Judgement]


def passes(node: "Node") -> Judgement:
    """The judge of a chain whose gate replaces nothing."""
    return Judgement()
