"""What the settings of all methods of merging have in common. Imports no torch."""

import math
from typing import Any, ClassVar

from pydantic import Field

from cpt.settings import Settings

#: Settings that change how fast or in which files a merge is written, or only which one is refused.
CHANGES_NO_WEIGHT = {"shard_bytes", "unrelated"}


class Method(Settings):
    """What all methods have.

    Settings:
        unrelated: merge checkpoints that have no ancestor in common all the same.
        shard_bytes: most bytes of weights in one file of the result.
    """

    fewest: ClassVar[int] = 2
    most: ClassVar[float] = math.inf

    unrelated: bool = False
    shard_bytes: int = Field(default=5_000_000_000, ge=1)

    @property
    def name(self) -> str:
        """The method, as `method:` says it."""
        return str(getattr(self, "method"))  # noqa: B009 - each method has its own Literal

    @property
    def chooses(self) -> tuple[str, str] | None:
        """(suite, probe) by which it chooses among candidates; None where it does not."""
        suite, probe = getattr(self, "suite", None), getattr(self, "probe", None)
        return None if suite is None or probe is None else (suite, probe)

    def places(self) -> dict[str, str]:
        """Role -> the stage that it names, of models besides those in `from`."""
        return {}

    def content(self) -> dict[str, Any]:
        """What enters the stage's id, where stages stand by their own ids and a suite by its probe's hash."""
        left_out = {*CHANGES_NO_WEIGHT, "base", "onto", "suite"}
        return {key: value for key, value in self.model_dump().items() if key not in left_out}

    def problems(self, num_models: int) -> list[str]:
        """What is wrong with these settings for so many models."""
        found = []
        if not self.fewest <= num_models <= self.most:
            wanted = f"{self.fewest}" if self.most == self.fewest else f"{self.fewest} or more"
            found.append(f"from: {self.name} merges {wanted} models, not {num_models}")
        given = getattr(self, "weights", None)
        if given is not None and len(given) != num_models:
            found.append(
                f"merge.weights: {len(given)} numbers for {num_models} models; write one for each in from:"
            )
        return found


def finite(values: list[float] | None) -> list[float] | None:
    """Refuse what is no number."""
    if values is not None and not all(math.isfinite(value) for value in values):
        raise ValueError(f"must be numbers, not {values}")
    return values
