"""Coefficients and shares that change over a stage; time is the part of the stage that is done."""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cpt.settings import Settings


class ScheduleSpec(Settings):
    """`schedule:` of a hook: where a share or a coefficient starts, and how it comes to its final value.

    `tau` is a part of the stage's steps: after it an exponential has 37 % of the way left, a line none.
    """

    start: float = Field(ge=0, allow_inf_nan=False)
    tau: float = Field(default=0.05, gt=0, le=1)
    shape: Literal["exponential", "linear"] = "exponential"

    def content(self) -> dict[str, object]:
        """What enters the content address of a stage."""
        return self.model_dump()


@dataclass(frozen=True)
class Schedule:
    """A value over the time s in [0, 1] of a stage.

    exponential: end + (start - end) * exp(-s / tau); linear: end + (start - end) * max(0, 1 - s / tau);
    constant where start is end.

    Source: `methods.md` A48 (replay share at a boundary), P012 (coefficient of an auxiliary loss).
    """

    start: float
    end: float
    tau: float = 1.0
    shape: Literal["exponential", "linear"] = "exponential"

    @classmethod
    def of(cls, end: float, spec: ScheduleSpec | None) -> "Schedule":
        """Of a setting; constant where there is none."""
        return cls(end, end) if spec is None else cls(spec.start, end, spec.tau, spec.shape)

    def at(self, time: float) -> float:
        """The value at a time."""
        if self.shape == "linear":
            return self.end + (self.start - self.end) * max(0.0, 1 - time / self.tau)
        return self.end + (self.start - self.end) * math.exp(-time / self.tau)

    def integral(self, time: float) -> float:
        """Of the value, from 0 to a time."""
        if self.shape == "linear":
            part = min(time, self.tau)
            return self.end * time + (self.start - self.end) * (part - part * part / (2 * self.tau))
        return self.end * time + (self.start - self.end) * self.tau * -math.expm1(-time / self.tau)

    @property
    def is_constant(self) -> bool:
        """Whether it never changes."""
        return self.start == self.end

    @property
    def mean(self) -> float:
        """Over the whole stage."""
        return self.integral(1.0)

    @property
    def highest(self) -> float:
        """At any time."""
        return max(self.start, self.end)
