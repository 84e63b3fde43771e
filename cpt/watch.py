"""Looks at a model while it trains: how often, with what, and whether they may end the stage."""

from typing import Any

from pydantic import Field

from cpt.data_spec import DataSpec
from cpt.settings import Settings

#: Raised by hand when the same settings would stop elsewhere.
VERSION = 1
#: Forgetting is fastest at first: with `early`, looks at these powers of two come before the regular ones.
EARLY = tuple(2**power for power in range(7))
#: Without `every`, this part of a stage lies between two looks.
PART = 0.05


class WatchSpec(Settings):
    """`watch:` of a chain or of a stage.

    Each look measures the suite, if one is named, and two signals that cost seconds: the forward KL from the
    base model on the stage's own prompts, and the loss on general text. Nothing of it changes how the stage
    trains, unless `stop` is set.
    """

    every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between two looks; a twentieth of the stage",
    )
    early: bool = Field(default=True, description="look after steps 1, 2, 4, ... 64, too")
    suite: str | None = Field(default=None, description="a small suite of probes")
    prompts: int = Field(
        default=16,
        ge=0,
        description="of the stage's own rows, for the KL from the base model; 0: none",
    )
    text: DataSpec | None = Field(default=None, description="general text whose loss is followed")
    texts: int = Field(default=32, ge=1, description="rows of it")
    stop: bool = Field(
        default=False, description="end the stage where a probe of the suite has regressed"
    )
    margin: float | None = Field(
        default=None,
        ge=0,
        description="fall that is tolerated, of every probe; unless said those of gate and suite",
    )

    def content(self, rules: str) -> dict[str, Any]:
        """What enters the content address of a stage: nothing, where looks only look.

        Args:
            rules: hash of the suite that is looked with and of the margins that stop.
        """
        if not self.stop:
            return {}
        return {"version": VERSION, "rules": rules, "every": self.every, "early": self.early}

    def steps(self, num_steps: int) -> list[int]:
        """After which of `num_steps` steps there is a look: before the first, after the last, and between."""
        every = self.every or max(1, round(PART * num_steps))
        looks = {0, num_steps, *range(every, num_steps, every)}
        return sorted(looks | {step for step in EARLY if self.early and step < num_steps})

    def stops(self, num_steps: int) -> list[int]:
        """After which steps a look may end the stage; it is over behind the last one anyhow."""
        return [step for step in self.steps(num_steps) if 0 < step < num_steps] if self.stop else []
