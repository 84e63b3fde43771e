"""The stability gap of scripted series (methods card A35)."""

from dataclasses import replace

import numpy as np
import pytest

from cpt.errors import ProbeError
from eval import stability
from eval.matrix import Item, Matrix, Row, Score
from eval.means import ratio_stderr, weighted_mean

SERIES = np.array([0.9, 0.4, 0.85])


def test_the_scripted_series() -> None:
    assert stability.minimum(SERIES) == pytest.approx(0.4)
    assert stability.windowed_forgetting(SERIES, 1) == pytest.approx(0.5)
    assert stability.recovery(SERIES) == pytest.approx(0.45)
    assert stability.recovered_at([0.9, 0.4, 0.85], [0, 10, 20], 0.05) == 20
    assert stability.recovered_at([0.9, 0.4, 0.85], [0, 10, 20], 0.02) is None
    assert stability.recovered_at([0.9, 0.89, 0.95], [0, 10, 20], 0.02) == 10


def test_a_window_holds_falls_in_several_steps() -> None:
    slow = np.array([[0.9, 0.8, 0.7, 0.6, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5]])
    assert stability.windowed_forgetting(slow, 1) == pytest.approx([0.1, 0])
    assert stability.windowed_forgetting(slow, 2) == pytest.approx([0.2, 0])
    assert stability.windowed_forgetting(slow, 99) == pytest.approx([0.3, 0])


def test_worst_case_accuracy() -> None:
    two = np.array([[0.9, 0.8], [0.4, 0.6], [0.85, 0.7]])
    lowest = stability.min_accuracy(two)
    assert lowest == pytest.approx(0.5)
    assert stability.worst_case_accuracy(0.8, lowest, 4) == pytest.approx(0.2 + 0.75 * 0.5)


def score(probe: str, right: int, higher: bool, margin: float | None = None) -> Score:
    values = [1.0] * right + [0.0] * (20 - right)
    items = tuple(
        Item(str(i), v if higher else 1 + 2 * v, 1.0, "", "") for i, v in enumerate(values)
    )
    value, stderr = weighted_mean(items), ratio_stderr(items)
    metric = "acc" if higher else "bits_per_byte"
    return Score(probe, metric, "knowledge", higher, margin, value, stderr, items, "f")


def test_gaps_of_probes_within_a_stage() -> None:
    right = ((18, 18), (8, 4), (17, 12))
    rows = tuple(
        Row(
            f"step {n}",
            str(n),
            {"up": score("up", up, True), "down": score("down", down, False, 0.1)},
        )
        for n, (up, down) in enumerate(right)
    )
    matrix = Matrix("small", "0", rows, ("up", "down"))
    up, down = stability.gaps(matrix, [0, 5, 20], tolerance=0.05)
    assert (up.start, up.lowest.value) == (0.9, 0.4)
    assert up.lowest.low < 0.4 < up.lowest.high
    assert (up.windowed.value, up.recovery.value) == pytest.approx((0.5, 0.45))
    assert (up.lowest_at, up.recovered_at, up.time_to_recover) == (5, 20, 15)
    # losses 2.8, 1.4, 2.2: lower is better, so the start is the worst
    assert down.lowest.value == pytest.approx(-2.2)
    assert (down.lowest_at, down.time_to_recover) == (20, 0)
    assert down.windowed.value == pytest.approx(0.8)
    with pytest.raises(ProbeError, match="3 evaluations and 2 steps"):
        stability.gaps(matrix, [0, 5])


def test_what_does_not_change_may_yet_have_fallen() -> None:
    """No item of 20 differs between the looks, and three of them could."""
    rows = tuple(Row(f"step {n}", str(n), {"up": score("up", 12, True)}) for n in range(3))
    (gap,) = stability.gaps(Matrix("small", "0", rows, ("up",)), [0, 5, 20])
    for found in (gap.windowed, gap.recovery):
        assert (found.value, found.low) == (0, 0)
        assert 0.1 < found.high < 0.3  # 1.96 sqrt(2 * 3) / 20 between two looks
    assert gap.lowest.low < 0.6 < gap.lowest.high


def test_lowest_scores_of_old_probes_beside_what_the_stage_teaches() -> None:
    """Old 0.9, 0.4, 0.85 and 0.9, 0.6, 0.5; own ends at 0.8: min-ACC 0.45, WC-ACC 0.8 / 3 + 2 / 3 of it."""
    right = {"a": (18, 8, 17), "b": (18, 12, 10), "mine": (2, 9, 16)}
    rows = tuple(
        Row(
            f"step {n}",
            str(n),
            {
                name: replace(score(name, each[n], True), owner="sft" if name == "mine" else None)
                for name, each in right.items()
            },
        )
        for n in range(3)
    )
    matrix = Matrix("small", "0", rows, tuple(right))
    (found,) = stability.lowest(matrix, "sft")
    assert (found.unit, found.old, found.own) == ("share", ("a", "b"), ("mine",))
    assert found.min_accuracy.value == pytest.approx(0.45)
    assert found.worst_case is not None
    assert found.worst_case.value == pytest.approx(0.8 / 3 + 0.45 * 2 / 3)
    assert found.worst_case.low <= found.worst_case.value <= found.worst_case.high
    (other,) = stability.lowest(matrix, "dpo")
    assert (other.old, other.worst_case) == (("a", "b", "mine"), None)
