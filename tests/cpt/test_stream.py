import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from cpt.errors import DataError
from cpt.replay.fluid import length_of_epochs, length_of_room, strata
from cpt.replay.schedule import Schedule
from cpt.stream import Mixer, Source, Stream, interleave


def rows(name: str, number: int, share: float, fresh: bool = True) -> Source:
    return Source(name, [1] * number, share, fresh)


def texts(name: str, number: int, share: float, fresh: bool = True) -> Source:
    draw = random.Random(name)
    return Source(name, [draw.randint(1, 200) for _ in range(number)], share, fresh)


def pairs(stream: Stream) -> list[tuple[int, int]]:
    return list(stream.order)


def only(stream: Stream, source: int) -> list[int]:
    return [row for number, row in stream.order if number == source]


def test_a_small_stream_by_hand() -> None:
    # Deadlines of new rows, (n + 1) / 0.75: 1.33, 2.67, 4, 5.33 ...; of old ones: 4, 8. An old row
    # waits until it would not be ahead by a whole row: 0 < 0.25 * 1 holds at once, and new rows are due
    # earlier; at 4 both are due, and the first source goes first.
    mixed = interleave([rows("new", 6, 0.75), rows("old", 3, 0.25, fresh=False)], seed=0)
    assert [source for source, _ in mixed.order] == [0, 0, 0, 1, 0, 0, 0]
    assert sorted(only(mixed, 0)) == [0, 1, 2, 3, 4, 5]
    assert mixed.epochs == (1.0, 1 / 3)
    assert mixed.shares == (6 / 7, 1 / 7)


def test_shares_count_amounts() -> None:
    # Old rows are three times as long: one of them for every nine new rows is a quarter of the tokens.
    mixed = interleave(
        [Source("new", [1] * 900, 0.75), Source("old", [3] * 50, 0.25, fresh=False)], seed=0
    )
    assert Counter(source for source, _ in mixed.order) == {0: 900, 1: 100}
    assert mixed.shares == (0.75, 0.25)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 1 / 3, 0.5, 0.9])
def test_over_many_draws_the_share_is_exact(share: float) -> None:
    mixed = interleave(
        [texts("new", 997, 1 - share), texts("old", 101, share, False)], 3, rows=100_000
    )
    assert mixed.shares[1] == pytest.approx(share, rel=0.005)


@pytest.mark.parametrize(
    "shares",
    [
        [0.9, 0.1],
        [0.5, 0.3, 0.2],
        [0.9, 0.05, 0.05],
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.3, 0.15, 0.1, 0.05],
        [0.125] * 8,
        [0.3, 0.3, *[0.05] * 8],
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [rows, texts])
def test_every_prefix_keeps_the_shares_within_one_row(shares: list[float], make: type) -> None:
    sources = [make(str(n), 89, share, n == 0) for n, share in enumerate(shares)]
    largest = max(max(source.amounts) for source in sources)
    given, total = [0.0] * len(shares), 0.0
    for source, row in interleave(sources, 5, rows=3000).order:
        given[source] += sources[source].amounts[row]
        total += sources[source].amounts[row]
        for number, share in enumerate(shares):
            assert abs(given[number] - share * total) <= largest + 1e-6


def test_each_cycle_takes_every_row_once_in_a_new_order() -> None:
    mixed = interleave([rows("new", 50, 0.5), rows("old", 7, 0.5, False)], 1)
    old = only(mixed, 1)
    cycles = [old[start : start + 7] for start in range(0, 49, 7)]
    assert all(sorted(cycle) == list(range(7)) for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 1


def test_a_share_of_0_is_no_source_at_all() -> None:
    new = rows("new", 20, 1.0)
    alone = pairs(interleave([new], 1))
    assert pairs(interleave([new, rows("old", 5, 0.0, False)], 1)) == alone
    assert pairs(interleave([new, rows("empty", 0, 0.0, False)], 1)) == alone


def test_other_sources_do_not_reorder_a_source() -> None:
    alone = interleave([texts("new", 40, 1.0)], 1)
    with_one = interleave([texts("new", 40, 0.8), texts("old", 9, 0.2, False)], 1)
    with_two = interleave(
        [texts("new", 40, 0.7), texts("older", 5, 0.1, False), texts("old", 9, 0.2, False)], 1
    )
    assert only(alone, 0) == only(with_one, 0) == only(with_two, 0)
    short = min(len(only(with_one, 1)), len(only(with_two, 2)))
    assert only(with_one, 1)[:short] == only(with_two, 2)[:short]


def test_the_key_and_not_the_name_decides_the_order() -> None:
    one = pairs(interleave([Source("/here/a", [1] * 30, 1.0, key="new 0")], 1))
    other = pairs(interleave([Source("/there/b", [1] * 30, 1.0, key="new 0")], 1))
    assert one == other
    assert one != pairs(interleave([Source("/here/a", [1] * 30, 1.0, key="new 1")], 1))
    assert one != pairs(interleave([Source("/here/a", [1] * 30, 1.0, key="new 0")], 2))


def test_new_data_are_never_truncated() -> None:
    for share in (0.05, 0.5, 0.95):
        mixed = interleave([texts("new", 31, 1 - share), texts("old", 7, share, False)], 2)
        assert sorted(only(mixed, 0)) == list(range(31))
    two = interleave([rows("a", 10, 0.5), rows("b", 30, 0.5)], 2)
    assert set(only(two, 0)) == set(range(10))
    assert set(only(two, 1)) == set(range(30))
    assert two.epochs == pytest.approx((3.0, 1.0), abs=0.11)


@pytest.mark.parametrize(("epochs", "number"), [(1, 10), (2.0, 20), (0.5, 5), (None, 10)])
def test_epochs_count_cycles_of_new_data(epochs: float | None, number: int) -> None:
    assert len(interleave([rows("new", 10, 1.0)], 1, epochs=epochs)) == number


def test_rows_and_amount_end_a_stream() -> None:
    new = Source("new", [3] * 10, 1.0)
    assert len(interleave([new], 1, rows=25)) == 25
    assert len(interleave([new], 1, amount=10)) == 4


@pytest.mark.parametrize("multiple", [1, 4, 7, 16])
def test_a_last_batch_is_filled_from_the_next_cycle(multiple: int) -> None:
    mixed = interleave([rows("new", 10, 1.0)], 1, multiple_of=multiple)
    assert len(mixed) == -(-10 // multiple) * multiple
    assert sorted(only(mixed, 0)[:10]) == list(range(10))


def test_a_longer_stream_begins_as_the_shorter_one() -> None:
    sources = [texts("new", 30, 0.6), texts("old", 8, 0.4, False)]
    mixer = Mixer(sources, 9)
    while len(mixer) < 200:
        mixer.draw()
    for number in (1, 17, 100):
        short = interleave(sources, 9, rows=number)
        assert pairs(short) == list(zip(mixer.sources, mixer.rows, strict=True))[:number]
        assert mixer.first(number) == short  # its shares and epochs too


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(DataError, match="old is to be 20% of the stream and is empty"):
        interleave([rows("new", 3, 0.8), rows("old", 0, 0.2, False)], 1)
    with pytest.raises(DataError, match="leave nothing for new data"):
        interleave([rows("old", 3, 1.0, False)], 1)


def scheduled(share: float, start: float, tau: float, number: int = 90) -> Source:
    schedule = Schedule(start=start, end=share, tau=tau)
    return Source("old", [1] * number, share, False, schedule=schedule)


@pytest.mark.parametrize(
    ("start", "end", "tau"), [(0.5, 0.1, 0.05), (0.0, 0.3, 0.2), (0.4, 0, 0.3)]
)
def test_a_share_that_changes_is_exact_in_every_prefix_too(
    start: float, end: float, tau: float
) -> None:
    old = scheduled(end, start, tau)
    sources = [rows("new", 70, 0.6), rows("more", 40, 0.2), old, rows("other", 30, 0.1, False)]
    length = 2000
    given = [0, 0, 0, 0]
    assert old.schedule is not None
    mixed = interleave(sources, 5, rows=length, length=length)
    for total, (source, _) in enumerate(mixed.order, start=1):
        given[source] += 1
        of_old = length * old.schedule.integral(total / length)
        left = total - of_old - 0.1 * total
        wanted = [left * 0.75, left * 0.25, of_old, 0.1 * total]
        assert all(abs(have - want) <= 1 for have, want in zip(given, wanted, strict=True))
    assert mixed.shares[2] == pytest.approx(old.schedule.mean, abs=1 / length)


def test_a_schedule_that_does_not_change_is_no_schedule() -> None:
    constant = interleave([texts("new", 80, 0.8), texts("old", 9, 0.2, False)], 1)
    new, old = texts("new", 80, 0.8), texts("old", 9, 0.2, False)
    same = replace(old, schedule=Schedule(0.2, 0.2))
    assert pairs(interleave([new, same], 1, length=1e4)) == pairs(constant)


def test_the_length_of_a_stage_is_known_before_it_is_mixed() -> None:
    new, old = texts("new", 300, 0.9), texts("old", 100, 0.1, False)
    old = replace(old, schedule=Schedule(0.5, 0.1, 0.05))
    parts = [(source.share, source.fresh, source.schedule) for source in (new, old)]
    totals = [float(sum(source.amounts)) for source in (new, old)]
    of_epochs = length_of_epochs(parts, totals, 2.0)
    mixed = interleave([new, old], 3, epochs=2.0, length=of_epochs)
    total = sum((new, old)[source].amounts[row] for source, row in mixed.order)
    assert total == pytest.approx(of_epochs, abs=400)
    # 500 rows, of which the old ones' share of tokens is 0.12.
    amounts = [totals[0] / 300, totals[1] / 100]
    of_rows = length_of_room(parts, amounts, [1.0, 1.0], 500)
    mixed = interleave([new, old], 3, rows=500, length=of_rows)
    total = sum((new, old)[source].amounts[row] for source, row in mixed.order)
    assert total == pytest.approx(of_rows, rel=0.02)
    assert mixed.shares[1] == pytest.approx(0.12, abs=0.005)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 32, 100])
@pytest.mark.parametrize("shares", [[0.0, 0.25], [0, 0.3, 0.1], [0, 0, 0.5, 0.05, 0.1]], ids=str)
def test_every_batch_holds_the_rounded_share(size: int, shares: list[float]) -> None:
    counts = [math.floor(share * size + 0.5) for share in shares]
    names = [str(number) for number in range(len(shares))]
    if any(share and not count for share, count in zip(shares, counts, strict=True)):
        with pytest.raises(DataError, match="is less than half a row; raise batch_size"):
            strata(shares, size, names)
        return
    pattern = strata(shares, size, names)
    sources = [
        rows(str(number), 13, share or (1 - sum(shares)) / shares.count(0), share == 0)
        for number, share in enumerate(shares)
    ]
    order = [source for source, _ in interleave(sources, 1, rows=20 * size, pattern=pattern).order]
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        for number, share in enumerate(shares):
            if share:
                assert batch.count(number) == counts[number]


def test_new_sources_share_what_batches_leave_them() -> None:
    sources = [rows("a", 50, 0.6), rows("b", 50, 0.2), rows("old", 9, 0.2, False)]
    pattern = strata([0, 0, 0.2], 5, ["a", "b", "old"])
    mixed = interleave(sources, 1, rows=500, pattern=pattern)
    assert mixed.shares == (0.6, 0.2, 0.2)
    # Each in its own order, whatever comes between, and in its share of what is left at any time.
    alone = interleave([rows("a", 50, 0.75), rows("b", 50, 0.25)], 1, rows=400)
    for source in (0, 1):
        assert only(mixed, source) == only(alone, source)
    new = [source for source, _ in mixed.order if source < 2]
    assert all(abs(new[:end].count(0) - 0.75 * end) <= 1 for end in range(len(new)))


def test_batches_that_leave_no_row_for_new_data_are_refused() -> None:
    with pytest.raises(DataError, match="take all 4 rows of a batch"):
        strata([0, 0.5, 0.45], 4, ["new", "old", "older"])
