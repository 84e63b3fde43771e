"""The line between a stage's parent and its result, and a share of its own for each group of layers.

    theta_g = (1 - a_g) parent_g + a_g result_g

Groups are blocks of layers of equal depth, the embeddings with the lowest, and the head (final norm and
output rows).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from cpt.errors import EdgeError
from cpt.merging.layerwise import blocks_of
from cpt.merging.merge import Folders, look, merge
from cpt.merging.spec import Layerwise, Method, Soup

#: The result's share of each group, the head last; of one group: of the whole model.
Shares = tuple[float, ...]

BLOCKS = 3
#: Shares of the line that are tried first, for it need not get worse evenly.
GRID = (0.75, 0.5, 0.25)
#: Where the line is known as finely as this, more attempts on it tell nothing.
FINEST = 1 / 32
#: Less than this is no loss of skill.
ROUNDING = 1e-12


class Seen(Protocol):
    """What was found out of an average."""

    @property
    def is_within(self) -> bool:
        """Whether every probe keeps its margin."""
        ...

    @property
    def skill(self) -> float:
        """What it learned; more is better."""
        ...


class Between(Layerwise):
    """Layerwise averaging by the shares themselves, in place of alpha and tilts.

    Settings:
        shares: of the first model in each block, the head last.
    """

    shares: list[float]

    def alphas(self) -> list[float]:
        """The share of the first model in each block, the head last."""
        return self.shares


def method_of(shares: Shares) -> Method:
    """How the average of (result, parent) is written."""
    if len(set(shares)) == 1:
        return Soup(method="soup", weights=[shares[0], 1 - shares[0]])
    return Between(method="layerwise", blocks=len(shares) - 1, shares=list(shares))


def write_average(result: Path, parent: Path, shares: Shares, folder: Path) -> None:
    """Write an average into an empty folder; tokenizer and configuration are the result's."""
    merge(Folders((("result", result), ("parent", parent))), method_of(shares), 0, folder)


def num_groups(result: Path, parent: Path) -> int:
    """Groups of layers that can have shares of their own; 1 where names tell no layers.

    Raises:
        EdgeError: the two checkpoints cannot be averaged.
    """
    return count_groups(look(Folders((("result", result), ("parent", parent)))).merged)


def count_groups(names: Iterable[str]) -> int:
    """Blocks of layers and the head, by the names of the tensors."""
    names = list(names)
    for number in range(BLOCKS, 0, -1):
        try:
            blocks_of(names, number)
        except EdgeError:  # fewer layers than that, or none
            continue
        return number + 1
    return 1


def search(see: Callable[[Shares], Seen], groups: int, most: int) -> Shares | None:
    """The shares with the most skill of those that keep every margin; None where the parent is better.

    That is where none does, or where all learned less than nothing: the parent, at a share of 0, keeps every
    margin by definition, and has a skill of 0.

    First the line, on which all groups have one share: a coarse grid from above, then bisection between the
    largest share that keeps the margins and the smallest above it that does not. Then, with as many attempts
    as there are groups, group by group the whole result, kept where the margins hold and the skill rises.

    Args:
        see: measures an average; asked `most` times at most, and never twice for one.
        groups: of layers.
        most: attempts.

    Source: WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903) for the line; Lin et al. 2024, arXiv:2309.06256,
    section 5, for shares by layers, there learned by gradients (`methods.md` B11, P068).
    """
    seen: dict[Shares, Seen] = {}

    def within(shares: Shares) -> bool:
        seen[shares] = see(shares)
        return seen[shares].is_within

    def best() -> Shares | None:
        fit = [shares for shares, found in seen.items() if found.is_within]
        return max(fit, key=lambda shares: (seen[shares].skill, sum(shares)), default=None)

    on_line = most - groups if groups > 1 and most >= groups + len(GRID) else most
    low, high = 0.0, 1.0
    for share in GRID[:on_line]:
        if within((share,) * groups):
            low = share
            break
        high = share
    while len(seen) < on_line and high - low > FINEST:
        share = (low + high) / 2
        if within((share,) * groups):
            low = share
        else:
            high = share
    for group in range(groups if on_line < most else 0):
        start = best() or (0.0,) * groups
        raised = (*start[:group], 1.0, *start[group + 1 :])
        if raised not in seen and min(raised) < 1:  # 1 everywhere is the result
            within(raised)
    found = best()
    return None if found is None or seen[found].skill < -ROUNDING else found
