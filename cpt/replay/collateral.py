"""mix-cd: rehearse most what training is found to damage, learnt from the rehearsed rows themselves."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cpt.errors import HookError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def quantile_bins(losses: "NDArray[np.floating]", num_bins: int) -> list[int]:
    """Of each row the bin, from 0, of its prior loss among all rows': equally many rows in each.

    Rows of equal loss share a bin, so that bins do not depend on the order of rows.
    """
    import numpy as np

    values = np.asarray(losses, dtype=np.float64)
    below = np.searchsorted(np.sort(values), values, side="left")  # rows with a smaller loss
    return [int(bin_) for bin_ in below * num_bins // len(values)]


class Collateral:
    """How likely the rows of each bin are forgotten, and so how often they are drawn.

    alpha_k = (a + sum of discount^age * z) / (a + b + sum of discount^age), over the rows of bin k that were
    rehearsed, where z says whether the row was found forgotten and age counts optimizer steps. Bin k is drawn
    with probability (1 - floor) * alpha_k pi_k / sum of alpha pi + floor / (number of bins with pi > 0); pi_k
    is the bin's part of the rows. A bin without rows is never drawn.

    Source: Zhao et al. 2023 (mix-cd), `methods.md` P087, whose floor per bin would make 20 bins uniform: ours
    is shared by all bins, and every row counts as one that the prior model had right, as free text has no
    right answer.
    """

    def __init__(
        self,
        bins: Sequence[int],
        num_bins: int,
        *,
        discount: float = 0.95,
        prior: tuple[float, float] = (1.0, 1.0),
        floor: float = 0.05,
    ) -> None:
        """Begin without any evidence.

        Args:
            bins: of each row its bin.
            num_bins: K.
        """
        import numpy as np

        self.rows: list[list[int]] = [[] for _ in range(num_bins)]
        for row, bin_ in enumerate(bins):
            self.rows[bin_].append(row)
        masses = np.array([len(rows) for rows in self.rows], dtype=np.float64)
        self.mass = masses / masses.sum()  # pi, [K]
        self.bins = list(bins)
        self.discount, self.prior, self.floor = discount, prior, floor
        self.forgotten = np.zeros(num_bins)  # discounted counts, [K]
        self.seen = np.zeros(num_bins)
        self._new = np.zeros((2, num_bins))

    @property
    def alpha(self) -> "NDArray[np.float64]":
        """[K], probability that a row of the bin is forgotten."""
        found: NDArray[np.float64] = (self.prior[0] + self.forgotten) / (
            sum(self.prior) + self.seen
        )
        return found

    @property
    def probabilities(self) -> "NDArray[np.float64]":
        """[K], of drawing each bin."""
        wanted = self.alpha * self.mass
        live = self.mass > 0
        drawn: NDArray[np.float64] = (
            1 - self.floor
        ) * wanted / wanted.sum() + self.floor * live / live.sum()
        return drawn

    def draw(self, number: int, generator: "np.random.Generator") -> list[int]:
        """Rows of the next batch: a bin for each, then a row of it, uniformly."""
        chosen = generator.choice(len(self.rows), number, p=self.probabilities)
        return [self.rows[bin_][int(generator.integers(len(self.rows[bin_])))] for bin_ in chosen]

    def observe(self, row: int, is_forgotten: bool) -> None:
        """Note what this process saw of a rehearsed row in this step."""
        self._new[0, self.bins[row]] += is_forgotten
        self._new[1, self.bins[row]] += 1

    def end_step(
        self, sum_: "Callable[[NDArray[np.float64]], NDArray[np.float64]]" = lambda counts: counts
    ) -> None:
        """Age what is known by a step and add what all processes saw in it.

        Args:
            sum_: [2, K] -> its sum over all processes.
        """
        import numpy as np

        forgotten, seen = sum_(self._new)
        self.forgotten = self.discount * self.forgotten + forgotten
        self.seen = self.discount * self.seen + seen
        self._new = np.zeros_like(self._new)

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, [K] each."""
        return {"forgotten": self.forgotten.copy(), "seen": self.seen.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            HookError: it has another number of bins.
        """
        import numpy as np

        for name in ("forgotten", "seen"):
            value = np.asarray(state[name], dtype=np.float64)
            if value.shape != self.mass.shape:
                raise HookError(
                    f"select: collateral: the saved state has {len(value)} bins, this stage "
                    f"{len(self.mass)}"
                )
            setattr(self, name, value.copy())
