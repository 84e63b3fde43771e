"""What planning asks of stage kinds, which are made in `stages/`."""

from typing import Protocol

from cpt.recipe import StageSpec


class Kind(Protocol):
    """What planning asks of a stage kind."""

    @property
    def name(self) -> str:
        """Key in a recipe."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same settings would train differently."""
        ...

    @property
    def trains(self) -> bool:
        """Whether it trains a model; a merge makes one of those that are there."""
        ...

    @property
    def config(self) -> str:
        """The TRL config class that `train:` speaks; empty where nothing is trained."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Row formats, the usual one first."""
        ...

    @property
    def joins(self) -> bool:
        """Whether its rows are tokens with labels, which joint training mixes with others'."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Which of reference, reward, teacher it can have."""
        ...

    def uses(self, role: str, spec: StageSpec) -> bool:
        """Whether a stage, set like this, needs the model of a role."""
        ...

    def pack(self, spec: StageSpec) -> tuple[int, bool] | None:
        """(tokens of a packed row, whether sequences are cut), or None."""
        ...

    def rows_per_step(self, spec: StageSpec) -> int:
        """Rows of the stream that one optimizer step takes."""
        ...

    def check(self, spec: StageSpec, where: str) -> None:
        """Refuse what the kind cannot honour."""

    def reward_contents(self, spec: StageSpec, where: str) -> list[str]:
        """What of the rewards enters the id."""
        ...
