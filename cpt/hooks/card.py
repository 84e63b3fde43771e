"""What a person should know of a method before listing it, beside what its class says itself.

Where a hook acts, its stage kinds, its needs and so its backends, and its settings are read from its
class and never written here; `cpt methods` prints both.
"""

from dataclasses import dataclass
from typing import Literal

#: Evidence of deployment, not of quality (`methods.md` section 9): used in large-scale production; newer,
#: to be validated before production; classical academic continual learning, not production-validated;
#: research only.
Evidence = Literal["production-validated", "newer", "academic", "research"]


@dataclass(frozen=True)
class Card:
    """What is known of one hook or stage kind. ASCII text; lines of `formula` stay as they are.

    Attributes:
        family: replay, output space, parameter space, gradient space, isolation, weight averaging;
            `objective` for a stage kind that trains.
        formula: plain text, a few lines, in the symbols that it explains.
        when: when to use it, and with which settings to begin.
        cost: extra forwards, backwards and data, in words.
        state: bytes per trained parameter beyond weights, gradients and optimizer, the number first:
            `0`, `4`, `8 per anchor`; in brackets what else it holds.
        fails: how it fails, and how one sees that.
        evidence: the label of `methods.md` section 9; a combination has its weakest.
        sources: papers with arXiv number and equation, and the card of `methods.md`.
    """

    family: str
    formula: str
    when: str
    cost: str
    state: str
    fails: str
    evidence: Evidence
    sources: tuple[str, ...]
