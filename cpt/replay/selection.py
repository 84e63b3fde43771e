"""Which rows of a stage are worth keeping: each function gives the places of the chosen rows.

Legend: N rows, D dimensions of an embedding, M rows to choose. Ties go to the row that comes first, and no
row is chosen twice. Where M rows are not there, all that can be chosen are.
"""

from typing import TYPE_CHECKING

from cpt.errors import HookError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Rows above this share of the losses are rather mislabelled than hard.
PERCENTILE = 95.0


def herding(embeddings: "NDArray[np.floating]", size: int) -> list[int]:
    """Rows whose mean stays closest to the mean of all, in the order of choice: every prefix is a selection.

    p_t = argmin_x || mu - (phi(x) + sum_{j<t} phi(p_j)) / t ||, without replacement.

    Args:
        embeddings: [N, D], phi; normalise them before if their length means nothing.

    Source: Welling 2009, doi:10.1145/1553374.1553517; Rebuffi et al. 2017, arXiv:1611.07725, alg. 4;
    `methods.md` A37.
    """
    import numpy as np

    phi = np.asarray(embeddings, dtype=np.float64)
    mean, total = phi.mean(0), np.zeros(phi.shape[1])
    chosen: list[int] = []
    free = np.ones(len(phi), dtype=bool)
    for number in range(1, min(size, len(phi)) + 1):
        distance = np.linalg.norm(mean - (phi + total) / number, axis=1)
        distance[~free] = np.inf
        place = int(distance.argmin())
        chosen.append(place)
        free[place] = False
        total += phi[place]
    return chosen


def kcenter(embeddings: "NDArray[np.floating]", size: int) -> list[int]:
    """Rows such that every other is near one of them: each next is the farthest from those chosen.

    The first is the row nearest to the mean, so that no draw decides. The largest distance of any row to its
    nearest chosen one is at most twice the least possible.

    Source: Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5; Sener and Savarese 2018, arXiv:1708.00489.
    """
    import numpy as np

    phi = np.asarray(embeddings, dtype=np.float64)
    chosen = [int(np.linalg.norm(phi - phi.mean(0), axis=1).argmin())]
    nearest = np.linalg.norm(phi - phi[chosen[0]], axis=1)
    nearest[chosen[0]] = -1.0  # a copy of a chosen row has distance 0 and may still follow
    while len(chosen) < min(size, len(phi)):
        place = int(nearest.argmax())
        chosen.append(place)
        np.minimum(nearest, np.linalg.norm(phi - phi[place], axis=1), out=nearest)
        nearest[chosen] = -1.0
    return chosen


def kmeans(
    embeddings: "NDArray[np.floating]",
    size: int,
    generator: "np.random.Generator",
    rounds: int = 100,
) -> list[int]:
    """The row nearest to each of M centroids; of a row that is nearest to two, the next nearest follows.

    Source: Lloyd 1982, doi:10.1109/TIT.1982.1056489; first centroids as Arthur and Vassilvitskii 2007
    (k-means++).
    """
    import numpy as np

    phi = np.asarray(embeddings, dtype=np.float64)
    if size >= len(phi):
        return list(range(len(phi)))
    centroids = phi[[int(generator.integers(len(phi)))]]
    while len(centroids) < size:
        nearest = _squared(phi, centroids).min(1)
        if nearest.sum() == 0:  # fewer different rows than centroids
            extra = generator.choice(len(phi), size - len(centroids), replace=False)
            centroids = np.concatenate([centroids, phi[extra]])
            break
        place = int(generator.choice(len(phi), p=nearest / nearest.sum()))
        centroids = np.concatenate([centroids, phi[[place]]])
    owner = np.full(len(phi), -1)
    for _ in range(rounds):
        found = _squared(phi, centroids).argmin(1)
        if (found == owner).all():
            break
        owner = found
        for number in range(size):
            if (owner == number).any():
                centroids[number] = phi[owner == number].mean(0)
    distance = _squared(phi, centroids)
    chosen: list[int] = []
    for number in range(size):
        distance[chosen, number] = np.inf
        chosen.append(int(distance[:, number].argmin()))
    return chosen


def difficult(
    losses: "NDArray[np.floating]", size: int, percentile: float = PERCENTILE
) -> list[int]:
    """Rows with the highest mean token loss, without those above a percentile, which are mostly noise.

    Raises:
        HookError: a loss is not a number.
    """
    import numpy as np

    values = np.asarray(losses, dtype=np.float64)
    if not np.isfinite(values).all():
        place = int((~np.isfinite(values)).argmax())
        raise HookError(f"select: difficult: the loss of row {place} is {values[place]}")
    highest = np.percentile(values, percentile, method="lower")
    order = np.argsort(-values, kind="stable")
    return [int(place) for place in order if values[place] <= highest][:size]


def quality(scores: "NDArray[np.floating]", size: int) -> list[int]:
    """Rows with the highest score of somebody else's."""
    import numpy as np

    return [int(p) for p in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:size]]


def _squared(
    phi: "NDArray[np.floating]", centroids: "NDArray[np.floating]"
) -> "NDArray[np.float64]":
    """[N, M] squared distances, computed in pieces of one centroid: N * D numbers at a time."""
    import numpy as np

    return np.stack([((phi - centroid) ** 2).sum(1) for centroid in centroids], axis=1)
