"""When rows are due where shares change over the stage."""

import math
from collections.abc import Sequence

from cpt.errors import DataError
from cpt.replay.schedule import Schedule

Part = tuple[float, bool, Schedule | None]


class Fluid:
    """What each source would have given by any time if rows could be cut as finely as one likes.

    With x the amount of the stream so far and L that of the whole stage, a replayed source gives
    L * (integral of its schedule from 0 to x / L), and the new ones divide the rest of x in the ratio of
    their shares. Where all shares are constant, that is share * x.

    Args:
        parts: of each source its share, whether it is new, and its schedule; None for a constant share.
        length: L, in the unit of the shares.
    """

    def __init__(self, parts: Sequence[Part], length: float) -> None:
        self.length = length
        self._old = {
            number: schedule or Schedule(share, share)
            for number, (share, is_new, schedule) in enumerate(parts)
            if not is_new and (share > 0 or schedule is not None)
        }
        whole = sum(share for share, is_new, _ in parts if is_new)
        self._new = {
            number: share / whole for number, (share, is_new, _) in enumerate(parts) if is_new
        }
        self._due: dict[int, tuple[float, float]] = {}

    def given(self, number: int, amount: float) -> float:
        """What a source would have given when the stream has this amount."""
        time = amount / self.length
        if number in self._old:
            return self.length * self._old[number].integral(time)
        old = sum(schedule.integral(time) for schedule in self._old.values())
        return self._new[number] * (amount - self.length * old)

    def due(self, number: int, given: float, coming: float, total: float) -> tuple[bool, float]:
        """Whether a source's next row would put it a row ahead of its share, and when the row is due.

        Args:
            given: by this source so far.
            coming: amount of its next row.
            total: of the stream so far.
        """
        reached = given + coming
        if self._due.get(number, (-1.0, 0.0))[0] != reached:
            self._due[number] = reached, self._time_of(number, reached)
        return given >= self.given(number, total + coming), self._due[number][1]

    def _time_of(self, number: int, reached: float) -> float:
        """The amount of the stream at which a source would have given so much; infinite if it never will."""
        low, high = reached, 2 * reached
        while self.given(number, high) < reached:
            low, high = high, 2 * high
            if high > 1e6 * (self.length + reached):
                return math.inf
        for _ in range(60):
            middle = (low + high) / 2
            if self.given(number, middle) < reached:
                low = middle
            else:
                high = middle
        return high


def mean_shares(parts: Sequence[Part]) -> list[float]:
    """Of each source its share of the whole stage."""
    old = [
        0.0 if is_new else schedule.mean if schedule else share for share, is_new, schedule in parts
    ]
    whole = sum(share for share, is_new, _ in parts if is_new)
    rest = 1 - sum(old)
    return [
        rest * share / whole if is_new else mean
        for (share, is_new, _), mean in zip(parts, old, strict=True)
    ]


def length_of_room(
    parts: Sequence[Part], amounts: Sequence[float], rooms: Sequence[float], room: float
) -> float:
    """Amount of a stage that ends when its room is full.

    The mean shares depend on no length, since schedules are told in parts of the stage.

    Args:
        amounts: of each source, what its mean row counts in shares.
        rooms: of each source, what its mean row takes of the room: tokens of packed rows, or 1.
        room: tokens of all packed rows, or the number of rows.
    """
    per_amount = sum(
        share * taken / amount
        for share, amount, taken in zip(mean_shares(parts), amounts, rooms, strict=True)
        if share > 0
    )
    return room / per_amount


def length_of_epochs(parts: Sequence[Part], totals: Sequence[float], epochs: float) -> float:
    """Amount of a stage that ends when every new source was seen so often; `totals` are the sources' own."""
    return max(
        total * epochs / share
        for share, total, (_, is_new, _) in zip(mean_shares(parts), totals, parts, strict=True)
        if is_new
    )


def strata(shares: Sequence[float], size: int, names: Sequence[str]) -> list[int]:
    """Order of the sources within each batch of `size` rows: of each place its source, or -1 for new data.

    A source of share s has round(s * size) rows, halves up, of every batch, spread over it as evenly as
    whole rows can be.

    Args:
        shares: of each source; None of them counts where it is 0.
        names: of the sources, for errors.

    Raises:
        DataError: a share that rounds to no row, or shares that leave no row for new data.
    """
    counts = [math.floor(share * size + 0.5) for share in shares]
    for share, count, name in zip(shares, counts, names, strict=True):
        if share > 0 and not count:
            raise DataError(
                f"{name}: {share:g} of a batch of {size} rows is less than half a row; raise batch_size, or "
                f"use mode: stream"
            )
    num_new = size - sum(counts)
    if num_new < 1:
        raise DataError(
            f"replay shares take all {size} rows of a batch and leave none for new data; lower them, or "
            f"raise batch_size"
        )
    wanted = {-1: num_new} | {number: count for number, count in enumerate(counts) if count}
    given = dict.fromkeys(wanted, 0)
    order: list[int] = []
    for place in range(size):
        open_ = [n for n in wanted if given[n] * size < wanted[n] * (place + 1)]
        chosen = min(open_, key=lambda n: (given[n] + 1) / wanted[n])
        given[chosen] += 1
        order.append(chosen)
    return order
