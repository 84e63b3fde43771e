"""Buffers: the card's counts and uniform samples (pitfall F20)."""

from typing import Any

import pytest

from cpt.errors import HookError
from cpt.replay.buffers import QuotaBuffer, Reservoir, quotas, reservoir_parts


def test_a_reservoir_keeps_every_item_with_equal_probability() -> None:
    """The card's 2,000 streams of 100 items into 10 places: each is kept with probability 0.1."""
    kept = [0] * 100
    for seed in range(2000):
        reservoir: Reservoir[int] = Reservoir(10, seed)
        for item in range(100):
            reservoir.add(item)
            assert len(reservoir.items) == min(item + 1, 10)
            if item < 10:
                assert reservoir.items == list(range(item + 1))
        for item in reservoir.items:
            kept[item] += 1
    assert sum(kept) == 2000 * 10
    assert all(abs(count / 2000 - 0.1) <= 0.03 for count in kept)
    # Draws of one stream exclude each other: the variance is 0.9 of a multinomial's, so the test is mild.
    assert sum((count - 200) ** 2 / 200 for count in kept) < 148.2  # 0.999 quantile, 99 degrees


def test_a_reservoir_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="size is at least 1"):
        Reservoir(0, 0)


def sizes(buffer: QuotaBuffer[Any]) -> list[int]:
    return [len(rows) for rows in buffer.stages.values()]


def test_quotas_of_five_stages_after_each() -> None:
    """The card's table: 5 x 5,000 rows into 1,000 slots."""
    buffer: QuotaBuffer[tuple[int, int]] = QuotaBuffer(1000, 7)
    expected = [[1000], [500, 500], [334, 333, 333], [250] * 4, [200] * 5]
    for stage, counts in enumerate(expected):
        buffer.add(f"stage {stage}", [(stage, row) for row in range(5000)])
        assert sizes(buffer) == counts
        assert all(
            row[0] == number for number, rows in enumerate(buffer.stages.values()) for row in rows
        )


def test_a_part_that_shrinks_keeps_a_uniform_subset_of_itself() -> None:
    places = [0] * 20
    for seed in range(1000):
        buffer: QuotaBuffer[int] = QuotaBuffer(10, seed)
        buffer.add("first", list(range(20)))
        before = set(buffer.stages["first"])
        buffer.add("second", list(range(20)))
        assert set(buffer.stages["first"]) < before
        for row in buffer.stages["first"]:
            places[row] += 1
    # A quarter of the rows, wherever they stood: the first are no likelier to stay.
    assert all(abs(count / 1000 - 0.25) < 0.06 for count in places)


def test_a_stage_that_comes_again_replaces_its_own_rows_only() -> None:
    buffer: QuotaBuffer[str] = QuotaBuffer(4, 1)
    buffer.add("a", ["a1", "a2", "a3"])
    buffer.add("b", ["b1", "b2", "b3"])
    kept = list(buffer.stages["b"])
    buffer.add("a", ["x1", "x2", "x3"])
    assert sizes(buffer) == [2, 2]
    assert buffer.stages["b"] == kept
    assert {row[0] for row in buffer.stages["a"]} == {"x"}


def test_the_seed_decides() -> None:
    def filled(buffer: QuotaBuffer[int], stages: range) -> QuotaBuffer[int]:
        for stage in stages:
            buffer.add(str(stage), list(range(100 * stage, 100 * stage + 100)))
        return buffer

    one = filled(QuotaBuffer(30, 1), range(4))
    assert filled(QuotaBuffer(30, 1), range(4)).stages == one.stages
    assert filled(QuotaBuffer(30, 2), range(4)).stages != one.stages


def test_a_buffer_smaller_than_the_number_of_stages_is_refused() -> None:
    assert quotas(3, 3) == [1, 1, 1]
    with pytest.raises(HookError, match="a buffer of 2 rows has none for some of 3 stages"):
        quotas(2, 3)


def test_a_reservoir_over_stages_holds_them_in_proportion_to_their_rows() -> None:
    parts = [reservoir_parts(100, [9000, 1000], seed) for seed in range(300)]
    assert {sum(part) for part in parts} == {100}
    assert sum(part[0] for part in parts) / 300 == pytest.approx(90, abs=1)
    # The spread of a hypergeometric draw: 100 * 0.9 * 0.1 * 9900 / 9999 = 8.91.
    variance = sum((part[0] - 90) ** 2 for part in parts) / 300
    assert variance == pytest.approx(8.91, rel=0.3)
    assert reservoir_parts(100, [30, 20], 1) == [30, 20]
    assert reservoir_parts(100, [9000, 1000], 5) == reservoir_parts(100, [9000, 1000], 5)
