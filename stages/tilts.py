"""Adaptive layer-wise averaging: a search over the shares of blocks, by a score that somebody else
measures."""

from collections.abc import Callable
from pathlib import Path

from cpt.ids import canonical
from cpt.merging.merge import Folders, merge
from cpt.merging.spec import Layerwise
from stages.trials import Trials


def search(method: Layerwise, score: Callable[[Layerwise], float]) -> tuple[Layerwise, float]:
    """Coordinate search: block by block each tilt a step up and down, the best of the three kept.

    Maximises score - penalty * sum_b |a_b - alpha|. Every candidate's shares have the mean alpha; those that
    would give a block more than the whole earlier model are left out. The search ends before its last round
    where one changes nothing. At most 1 + 2 * rounds * number of blocks measurements.

    Returns: the method with the tilts that were found, and what is maximised there.
    Source: the objective of Lin et al. 2024, arXiv:2309.06256, section 5, which learns the tilts by gradients
    (`methods.md` P068, "cheap variant").
    """

    def value(candidate: Layerwise) -> float:
        distance = sum(abs(share - candidate.alpha) for share in candidate.alphas())
        return score(candidate) - candidate.penalty * distance

    best = tilted(method, method.tilts or [0.0] * (method.blocks + 1))
    highest = value(best)
    for _ in range(method.rounds):
        before = best
        for block in range(method.blocks + 1):
            start = list(best.tilts or ())
            for step in (method.step, -method.step):
                moved = [tilt + step * (place == block) for place, tilt in enumerate(start)]
                candidate = tilted(method, moved)
                if max(candidate.alphas()) <= 1 and (found := value(candidate)) > highest:
                    best, highest = candidate, found
        if best == before:
            break
    return best, highest


def tilted(method: Layerwise, tilts: list[float]) -> Layerwise:
    """The method with other tilts."""
    return method.model_copy(update={"tilts": tilts})


def searched(folders: Folders, method: Layerwise, trials: Trials) -> tuple[Layerwise, float]:
    """The search over two models on disk."""

    def score(candidate: Layerwise) -> float:
        def write(folder: Path) -> None:
            merge(folders, candidate, 0, folder)

        shares = ", ".join(f"{share:.3f}" for share in candidate.alphas())
        return trials.of(canonical(candidate.tilts), f"shares {shares}", write)

    return search(method, score)
