"""What `merge:` of a stage may say: the settings of one method, each with its card where it is defined."""

from typing import Annotated

from pydantic import Field

from cpt.merging.averages import GreedySoup, Layerwise, Slerp, Soup
from cpt.merging.deltas import Dare, Delta, TaskArithmetic, Ties
from cpt.merging.method import Method

__all__ = [
    "Dare",
    "Delta",
    "GreedySoup",
    "Layerwise",
    "MergeSpec",
    "Method",
    "Slerp",
    "Soup",
    "TaskArithmetic",
    "Ties",
]

#: The settings under `merge:`, by `method`.
MergeSpec = Annotated[
    Soup | GreedySoup | Slerp | Layerwise | TaskArithmetic | Ties | Dare,
    Field(discriminator="method"),
]
