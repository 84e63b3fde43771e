"""Intervals of any number that is computed from a probe matrix: items are resampled."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpt.errors import ProbeError
from eval.matrix import Item, Matrix
from eval.means import clusters
from eval.pairs import paired_items

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_RESAMPLES = 1000
#: Draws at a time: their places and how often each was drawn are 16 bytes apiece.
MOST_DRAWN = 2**20
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided 95 % interval."""

    value: float
    low: float
    high: float


class Resamples:
    """Scores of a matrix and of its items drawn anew, probe by probe: each is drawn once and then kept.

    All rows of a probe get the same items, so that what differs between rows stays paired; items of a
    cluster are drawn together. Probes are drawn apart, so that what one got does not hang on the others.
    Only items that every row has are taken. What is kept of a probe is [1 + resamples, rows].

    Args:
        unseen: add to every row but the base a normal number with the variance of the items that could
            have changed and did not (`floors`): where no item of 100 changed, drawing them
            again cannot show what the next 100 would do.
    """

    def __init__(
        self,
        matrix: Matrix,
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
        *,
        unseen: bool = True,
    ) -> None:
        self.matrix, self.num_resamples, self.seed = matrix, num_resamples, seed
        self.unseen = unseen
        self._drawn: dict[str, NDArray[Any]] = {}

    def scores(self, probes: Sequence[str]) -> "NDArray[Any]":
        """Scores [1 + resamples, rows, probes]; the first are not drawn, but those measured.

        Raises:
            ProbeError: a row lacks a probe, or was measured differently from the base.
        """
        import numpy as np

        for probe in probes:
            if probe not in self._drawn:
                self._drawn[probe] = _resampled(
                    self.matrix, probe, self.num_resamples, self.seed, self.unseen
                )
        return np.stack([self._drawn[probe] for probe in probes], axis=-1)


def estimate(values: "NDArray[Any]") -> Estimate:
    """The first value, and the basic bootstrap interval of the others.

    2 v - q(0.975) to 2 v - q(0.025): where resampling shifts a number, as it does a maximum, the
    interval is shifted back by as much. It is stretched to the value where it lies beside it.
    """
    import numpy as np

    value = float(values[0])
    low, high = np.quantile(values[1:], [0.975, 0.025])
    return Estimate(value, min(value, 2 * value - float(low)), max(value, 2 * value - float(high)))


def of_largest(
    largest: "NDArray[Any]", chosen: "NDArray[Any]", least: float = -math.inf
) -> Estimate:
    """Estimate of a number that is the largest of several, such as the worst drop.

    Its lower end is that of `estimate`, which takes out what choosing the largest adds; its upper end is at
    least that of the one that was chosen, taken alone. Where all are alike and one is 0, the first alone
    would have no width.

    Args:
        chosen: the one that is largest in the first value, in all resamples.
        least: below which the number cannot be.
    """
    whole, alone = estimate(largest), estimate(chosen)
    return Estimate(whole.value, max(least, whole.low), max(whole.high, alone.high))


def common_items(matrix: Matrix, probe: str) -> list[list[Item]]:
    """The items of a probe that every row has, row by row in one order.

    Raises:
        ProbeError: a row lacks the probe, or was measured differently from the base.
    """
    base = matrix.rows[0]
    for row in matrix.rows:
        if probe not in row.scores:
            raise ProbeError(f"{row.stage} has no score for {probe}; probe it with {matrix.suite}")
        paired_items(base, row, probe)
    ids = [item.id for item in base.scores[probe].items]
    if all([i.id for i in row.scores[probe].items] == ids for row in matrix.rows[1:]):
        return [list(row.scores[probe].items) for row in matrix.rows]
    rows = [{item.id: item for item in row.scores[probe].items} for row in matrix.rows]
    shared = [key for key in rows[0] if all(key in items for items in rows)]
    if not shared:
        raise ProbeError(f"probe {probe}: no item is in every row")
    return [[items[key] for key in shared] for items in rows]


def floors(totals: "NDArray[Any]", sizes: "NDArray[Any]", is_share: bool) -> "NDArray[Any]":
    """Standard error [rows] of the changes that no row before it shows, the largest over these rows.

    The floor of `eval.skewed_t.units_of`: of the units that did not change between two rows up to three count
    as if they had, each by as much as those that did.

    Args:
        totals, sizes: of each unit [rows, units] the sum of weight times value, and of weights.
    """
    import numpy as np

    parts = totals / sizes.sum(-1, keepdims=True)  # [rows, units], adding up to the score
    shares = sizes / sizes.sum(-1, keepdims=True)
    influences = parts - shares * parts.sum(-1, keepdims=True)
    found = np.zeros(len(parts))
    for row in range(1, len(parts)):
        for other in range(row):
            moves = parts[row] - parts[other]
            changed = np.abs(moves) > _ROUNDING
            varies = np.abs(influences[row] - influences[other]).max() > _ROUNDING
            few = min(3, int((~changed).sum())) if varies else 3
            whole = shares[row] if is_share else influences[other]
            size = np.square(moves[changed] if changed.any() else whole).mean()
            found[row] = max(found[row], math.sqrt(few * size))
    return found


def _resampled(
    matrix: Matrix, probe: str, num_resamples: int, seed: int, unseen: bool
) -> "NDArray[Any]":
    import numpy as np

    rows = common_items(matrix, probe)
    names = clusters(rows[0])
    place: dict[str, int] = {}
    units = [place.setdefault(name, len(place)) for name in names or [i.id for i in rows[0]]]
    weights = np.array([[item.weight for item in items] for items in rows])
    values = np.array([[item.value for item in items] for items in rows])
    num_units, num_rows = len(place), len(rows)
    sums = np.stack(  # [units, rows of weighted values, then rows of weights]
        [np.bincount(units, row, num_units) for row in (*(weights * values), *weights)], axis=-1
    )
    found = np.empty((1 + num_resamples, 2 * num_rows))
    found[0] = sums.sum(0)
    rng = np.random.default_rng([seed, zlib.crc32(probe.encode())])
    several = max(1, MOST_DRAWN // num_units)
    for start in range(0, num_resamples, several):
        many = min(several, num_resamples - start)
        drawn = rng.integers(0, num_units, (many, num_units))
        drawn += np.arange(many)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=many * num_units)
        found[1 + start : 1 + start + many] = counts.reshape(many, num_units) @ sums
    scores = np.asarray(found[:, :num_rows] / found[:, num_rows:])
    if unseen:
        is_share = bool((values >= 0).all() and (values <= 1).all())
        floor = floors(sums[:, :num_rows].T, sums[:, num_rows:].T, is_share)
        scores[1:] += floor * rng.standard_normal((num_resamples, num_rows))
    return scores
