"""Two measurements of one checkpoint."""

import math

import pytest

from cpt.errors import ProbeError
from eval.matrix import Item, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.noise import Noise, is_silent, noise_floor


def row(fingerprint: str = "f", **probes: list[float]) -> Row:
    scores = {}
    for probe, values in probes.items():
        items = tuple(Item(str(i), v, 1.0, "", "") for i, v in enumerate(values))
        scores[probe] = Score(
            probe, "acc", "knowledge", True, None, weighted_mean(items), ratio_stderr(items), items,
            fingerprint,
        )  # fmt: skip
    return Row("base", "base-0", scores)


def test_equal_measurements_are_silent() -> None:
    once = row(facts=[1.0, 0.0, 1.0], text=[0.3, 0.4])
    found = noise_floor(once, once)
    assert found["facts"] == Noise("facts", 3, 0, 0.0, 0.0, 0.0)
    assert list(found) == ["facts", "text"]
    assert is_silent(found)


def test_differing_items_are_counted() -> None:
    found = noise_floor(row(facts=[1.0, 0.0, 1.0, 0.0]), row(facts=[1.0, 1.0, 0.0, 0.0]))["facts"]
    assert (found.num_differing, found.largest, found.shift) == (2, 1.0, 0.0)
    assert found.stderr == pytest.approx(math.sqrt(4 / 3 * 2 * (1 / 4) ** 2))
    assert not is_silent({"facts": found})


def test_a_shift_of_all_items_together_is_noise_though_none_varies() -> None:
    found = noise_floor(row(text=[0.3, 0.4, 0.5]), row(text=[0.35, 0.45, 0.55]))["text"]
    assert found.shift == pytest.approx(0.05)
    assert found.stderr == pytest.approx(0.05)
    assert found.largest == pytest.approx(0.05)


def test_measurements_of_different_kinds_are_refused() -> None:
    with pytest.raises(ProbeError, match="measured differently"):
        noise_floor(row(facts=[1.0]), row("g", facts=[1.0]))
