"""Resampled items: paired over rows, in clusters, and intervals of known width."""

import math
import zlib
from typing import Any

import numpy as np
import pytest

from cpt.errors import ProbeError
from eval import resample
from eval.matrix import Item, Matrix, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.resample import Resamples, common_items, estimate, floors, of_largest


def row(stage: str, items: list[Item], fingerprint: str = "f") -> Row:
    value, stderr = weighted_mean(items), ratio_stderr(items)
    score = Score(
        "text", "bits_per_byte", "language", False, None, value, stderr, tuple(items), fingerprint
    )
    return Row(stage, stage, {"text": score})


def items(values: list[float], weights: list[float], per_cluster: int = 0) -> list[Item]:
    return [
        Item(f"i{n}", v, w, "", "", cluster=f"c{n // per_cluster}" if per_cluster else "")
        for n, (v, w) in enumerate(zip(values, weights, strict=True))
    ]


def test_the_first_scores_are_those_measured_and_rows_share_their_items() -> None:
    values, weights = [1.0, 2.0, 4.0], [10.0, 30.0, 60.0]
    rows = (
        row("base", items(values, weights)),
        row("sft", items([v + 1 for v in values], weights)),
    )
    matrix = Matrix("small", "0", rows, ("text",))
    scores = Resamples(matrix, 200, unseen=False).scores(["text"])
    assert scores.shape == (201, 2, 1)
    assert scores[0, :, 0] == pytest.approx([3.1, 4.1])
    assert scores[:, 1, 0] - scores[:, 0, 0] == pytest.approx(np.ones(201))
    assert len(set(scores[:, 0, 0].round(9))) > 5
    # the base is what it is; a change of all items alike may be no change of others
    wider = Resamples(matrix, 2000).scores(["text"])
    assert (wider[0] == scores[0]).all()
    floor = math.sqrt(3 * (0.1**2 + 0.3**2 + 0.6**2) / 3)
    assert (wider[1:, 1] - wider[1:, 0]).std() == pytest.approx(floor, rel=0.1)


def test_a_part_at_a_time_draws_what_one_draw_would(monkeypatch: pytest.MonkeyPatch) -> None:
    values, weights = [float(n % 3) for n in range(30)], [1.0 + n for n in range(30)]
    rows = (row("base", items(values, weights)), row("sft", items(values[::-1], weights)))
    matrix = Matrix("small", "0", rows, ("text",))
    drawn = np.random.default_rng([3, zlib.crc32(b"text")]).integers(0, 30, (50, 30))
    expected = [
        [
            sum(weights[i] * v[i] for i in one) / sum(weights[i] for i in one)
            for v in (values, values[::-1])
        ]
        for one in drawn.tolist()
    ]
    for most in (1, 100, 10**6):
        monkeypatch.setattr(resample, "MOST_DRAWN", most)
        scores = Resamples(matrix, 50, seed=3, unseen=False).scores(["text"])
        assert scores[1:, :, 0] == pytest.approx(np.array(expected), abs=1e-12)


def test_a_probe_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = Matrix("small", "0", (row("base", items([1.0, 2.0], [1.0] * 2)),), ("text",))
    drawn, draw = [], resample._resampled

    def counted(matrix: Matrix, probe: str, *others: Any) -> object:
        drawn.append(probe)
        return draw(matrix, probe, *others)

    monkeypatch.setattr(resample, "_resampled", counted)
    found = Resamples(matrix, 20)
    assert (found.scores(["text"]) == found.scores(["text"])).all()
    assert drawn == ["text"]


def test_items_of_a_cluster_are_drawn_together() -> None:
    values = [float(n // 5) for n in range(100)]
    spreads = []
    for size in (0, 5):
        rows = (row("base", items(values, [1.0] * 100, size)),)
        scores = Resamples(Matrix("small", "0", rows, ("text",)), 2000).scores(["text"])
        spreads.append(float(scores[1:, 0, 0].std()))
        assert spreads[-1] == pytest.approx(rows[0].scores["text"].stderr, rel=0.1)
    assert spreads[1] > 2 * spreads[0]


def test_only_items_of_every_row_count() -> None:
    long, short = items([1.0, 2.0, 3.0], [1.0] * 3), items([1.0, 2.0], [1.0] * 2)
    matrix = Matrix("small", "0", (row("base", long), row("sft", short)), ("text",))
    assert [[i.id for i in found] for found in common_items(matrix, "text")] == [["i0", "i1"]] * 2
    other = Matrix("small", "0", (row("base", long), row("sft", long, "g")), ("text",))
    with pytest.raises(ProbeError, match="measured differently"):
        common_items(other, "text")


def test_the_interval_takes_out_what_resampling_adds() -> None:
    found = estimate(np.array([1.0, *np.linspace(1.0, 1.4, 1001)]))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(2 - 1.39)


def test_the_largest_of_several_is_as_wide_as_the_one_chosen() -> None:
    draws = np.linspace(-1.0, 1.0, 2001)
    found = of_largest(np.array([0.0, *np.maximum(draws, 0)]), np.array([0.0, *draws]), least=0.0)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.95)
    # what choosing adds is still taken out below
    found = of_largest(np.array([1.0, *(1.5 + draws)]), np.array([1.0, *(1 + draws)]))
    assert (found.low, found.high) == pytest.approx((2 - 2.45, 1.95))


def test_the_floor_of_three_units_by_hand() -> None:
    sizes = np.ones((3, 10))
    rows = np.array([[1.0] * 6 + [0.0] * 4, [1.0] * 5 + [0.0] * 5, [1.0] * 6 + [0.0] * 4])
    # one of ten items moved by a tenth, and back: three more may have, by as much
    assert floors(rows, sizes, True) == pytest.approx([0, math.sqrt(3) / 10, math.sqrt(3) / 10])
    # eight changed by different amounts: two more, by their root mean square
    moved = rows[:2] * 1.0
    moved[1] = moved[0] + np.array([0.1 * n for n in range(1, 9)] + [0.0, 0.0])
    size = math.sqrt(sum((0.01 * n) ** 2 for n in range(1, 9)) / 8)
    assert floors(moved, sizes[:2], False)[1] == pytest.approx(math.sqrt(2) * size)
    # none changed, in bits per byte: a move is the spread of the texts themselves
    texts = np.array([[1.0, 3.0] * 5] * 2)
    assert floors(texts, sizes[:2], False)[1] == pytest.approx(math.sqrt(3) * 0.1)
    # all changed, and not alike: nothing is unseen
    texts[1] += np.linspace(0.1, 0.2, 10)
    assert floors(texts, sizes[:2], False)[1] == 0
