"""Which of several checkpoints a gate takes: within every margin, and then the most new skill.

It chooses on the dev items of a suite and reports on the test items; a suite without dev items has one set
for both, and then what is reported of the chosen one is a little better than it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cpt.actions import Action
from eval.change import Change
from eval.compare import changes
from eval.gate import LEVEL, movement, with_margins
from eval.matrix import Row
from eval.split import only

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Look:
    """What one checkpoint would be to the chain.

    Attributes:
        is_within: whether no probe that the gate acts on is worse than it may be.
        skill: mean over the new skill's probes of the gain over the parent, in margins.
        beyond: of the probes that are worse than they may be, how they moved.
        gains: probe -> gain against the base model, in the probe's unit.
    """

    is_within: bool
    skill: float
    beyond: tuple[str, ...] = ()
    gains: Mapping[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "is_within": self.is_within,
            "skill": self.skill,
            "beyond": list(self.beyond),
            "gains": dict(self.gains),
        }


class Chooser:
    """Looks at checkpoints between a stage's parent and its result.

    A probe may fall by its margin against the base model (the point estimate: a test on few items would let
    almost anything pass), or as far as the parent has fallen, if that is more.
    """

    def __init__(
        self,
        base: Row,
        parent: Row,
        margins: Mapping[str, float],
        actions: Mapping[str, Action],
        skill: Sequence[str],
    ) -> None:
        """Take the rows that others are compared with.

        Args:
            base: row 0.
            parent: of the stage that regressed.
            margins: probe -> margin.
            actions: probe -> action; those that only warn hold nothing back.
            skill: probes of what the stage was to learn; none: nothing prefers one checkpoint to another.
        """
        self.base, self.parent = (with_margins(only(row, "dev"), margins) for row in (base, parent))
        self.margins, self.actions, self.skill = margins, actions, tuple(skill)
        self.floor = {
            change.probe: min(-change.margin, change.gain)
            for change in changes(self.base, self.parent, 0.0, LEVEL)
        }

    @property
    def is_split(self) -> bool:
        """Whether the suite has items for choosing."""
        scores = self.base.scores.values()
        return any(item.split == "dev" for score in scores for item in score.items)

    @property
    def without_dev(self) -> list[str]:
        """Probes that have none, where others have: these are chosen on the items that are reported."""
        scores = self.base.scores.items() if self.is_split else ()
        return [name for name, score in scores if not any(item.split for item in score.items)]

    def look(self, row: Row) -> Look:
        """Compare a row with base and parent."""
        own = with_margins(only(row, "dev"), self.margins)
        found = changes(self.base, own, 0.0, LEVEL)
        beyond = [change for change in found if self._is_beyond(change)]
        return Look(
            is_within=not beyond,
            skill=self._skill(own),
            beyond=tuple(movement(change, own.scores[change.probe]) for change in beyond),
            gains={change.probe: change.gain for change in found},
        )

    def _is_beyond(self, change: Change) -> bool:
        acts = self.actions.get(change.probe) != "warn"
        return acts and change.gain < self.floor[change.probe] - _ROUNDING

    def _skill(self, row: Row) -> float:
        gains = [
            change.gain / (change.margin or 1.0)
            for change in changes(self.parent, row, 0.0, LEVEL)
            if change.probe in self.skill
        ]
        return sum(gains) / len(gains) if gains else 0.0
