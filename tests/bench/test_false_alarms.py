"""The simulated worlds are what they say they are, and what is missed is said."""

from typing import Any

import numpy as np
import pytest

from tests.bench.false_alarms import FIRST, KINDS, World, markdown, missed, simulate


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
    assert set(result["false_improved"]) == {"nothing changed", "nothing changed, no margin"}
    assert set(result["by_probe"]) == set(KINDS)
    told = markdown(result)
    assert "| nothing changed | 0.0 % (0.0 to 84.2) | " in told
    assert "| every fall is the margin | 0.0 % (0.0 to 84.2) | - |" in told


def rate(value: float, low: float = 0.0, high: float = 1.0) -> dict[str, float]:
    return {"rate": value, "low": low, "high": high}


def kept() -> dict[str, Any]:
    """A result that keeps all promises."""
    probe = {"found": rate(0.8), "alone": rate(0.05), "corrected": rate(0.0), "held": rate(0.025)}
    return {
        "false_alarms": {"nothing changed": rate(0.0)},
        "false_improved": {"nothing changed": rate(0.05)},
        "found": rate(0.9),
        "by_probe": {"facts": probe},
    }


def test_what_is_kept_is_not_missed() -> None:
    assert missed(kept()) == []


def test_every_promise_is_checked() -> None:
    broken = {
        "nothing changed: 0.060 of the matrices have a false alarm, more than 0.05": (
            ("false_alarms", "nothing changed"), rate(0.06)
        ),
        "nothing changed: 0.060 of the matrices have a false `improved`, more than 0.05": (
            ("false_improved", "nothing changed"), rate(0.06)
        ),
        "all probes: 0.790 are found, less than 0.8": (("found",), rate(0.79, 0.76, 0.82)),
        "facts: 0.790 are found, less than 0.8": (
            ("by_probe", "facts", "found"), rate(0.79, 0.76, 0.82)
        ),
        "facts: false `regressed` in 0.0600 (0.0540 at least), more than 0.0500": (
            ("by_probe", "facts", "alone"), rate(0.06, 0.054)
        ),
        f"facts: false `regressed` in 0.0100 (0.0020 at least), more than {FIRST:.4f}": (
            ("by_probe", "facts", "corrected"), rate(0.01, 0.002)
        ),
        "facts: false `held` in 0.0570 (0.0500 at least), more than 0.0250": (
            ("by_probe", "facts", "held"), rate(0.057, 0.05)
        ),
    }  # fmt: skip
    for told, (path, value) in broken.items():
        result: Any = kept()
        part = result
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        assert missed(result) == [told]
    # what chance alone explains is no broken promise
    result = kept()
    result["by_probe"]["facts"]["held"] = rate(0.027, 0.024)
    assert missed(result) == []
