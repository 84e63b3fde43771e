"""The simulated worlds are what they say they are, and what is missed is said."""

import numpy as np
import pytest

from tests.bench.false_alarms import KINDS, World, markdown, missed, simulate


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fall", [0.0, 0.1])
def test_the_true_fall_is_the_one_asked_for(name: str, fall: float) -> None:
    kind, rng = KINDS[name], np.random.default_rng(0)
    before = kind.base(rng, 200_000)
    after = kind.later(rng, before, fall)
    loss = (before - after if kind.higher else after - before).mean()
    assert loss == pytest.approx(fall, abs=0.005)


def test_a_row_is_like_one_of_a_chain() -> None:
    world = World(np.random.default_rng(0))
    assert list(world.base.scores) == list(KINDS)
    clusters = {item.cluster for item in world.base.scores["60 clusters of 5, 3 % wins"].items}
    assert len(clusters) == 60
    weights = {item.weight for item in world.base.scores["bits per byte, 200 items"].items}
    assert len(weights) > 50


def test_a_small_run_finds_what_is_planted() -> None:
    result = simulate(2, seed=1)
    assert result["found"]["rate"] > 0.6
    assert result["false_alarms"]["nothing changed"]["rate"] == 0
    assert set(result["by_probe"]) == set(KINDS)
    assert "| nothing changed | 0.0 % (0.0 to 84.2) |" in markdown(result)
    assert missed(result) == []
    result["false_alarms"]["nothing changed"]["rate"] = 0.06
    result["found"] = {"rate": 0.7, "low": 0.6, "high": 0.79}
    assert missed(result) == [
        "nothing changed: 0.060 of the matrices have a false alarm, more than 0.05",
        "all probes: 0.700 are found, less than 0.8",
    ]
