"""What a gate does about a regression. Imports nothing: a report must not wait for pydantic."""

from collections.abc import Iterable
from typing import Literal

#: Of probes for which neither the gate nor the suite has another one.
MARGIN = 0.02

Action = Literal["warn", "stop", "rollback", "repair"]
#: From the mildest to the strictest: of several regressions the strictest action is taken.
STRICTNESS: tuple[Action, ...] = ("warn", "repair", "rollback", "stop")
#: Actions that put another checkpoint in the place of the one that regressed.
REMEDIES: tuple[Literal["repair", "rollback"], ...] = ("repair", "rollback")


def strictest(actions: Iterable[Action]) -> Action:
    """The one that is taken; of none it is `warn`."""
    return max(actions, key=STRICTNESS.index, default="warn")
