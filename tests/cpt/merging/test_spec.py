from typing import Any

import pytest

from cpt.errors import RecipeError
from cpt.merging.spec import Layerwise, MergeSpec, Method
from cpt.settings import Settings, validate


class Stage(Settings):
    merge: MergeSpec


def spec(**settings: Any) -> Method:
    return validate(Stage, {"merge": settings}, "merge.yaml").merge


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "merge.method is missing"),
        ({"method": "tiess", "base": "base"}, "merge.method: no 'tiess'; did you mean 'ties'?"),
        (
            {"method": "ties", "base": "base", "densty": 1},
            "merge has no 'densty'; did you mean 'density'?",
        ),
        ({"method": "soup", "base": "base"}, "merge has no 'base'"),
        ({"method": "ties"}, "merge.base is missing"),
        ({"method": "soup", "weights": [0.5, 0.4]}, "sum to 0.9, and those of a soup sum to 1"),
        ({"method": "soup", "weights": [1.5, -0.5]}, "-0.5 is negative, and a soup is an average"),
        ({"method": "soup", "weights": [float("nan"), 1.0]}, "must be numbers"),
        ({"method": "slerp", "t": 1.1}, "merge.t: input should be less than or equal to 1"),
        ({"method": "ties", "base": "base", "density": 0.0}, "merge.density: input should be gr"),
        ({"method": "ties", "base": "base", "density": 1.1}, "merge.density: input should be le"),
        ({"method": "ties", "base": "base", "weights": [0.0, 0]}, "one of them more"),
        ({"method": "ties", "base": "base", "weights": [-1.0, 1]}, "task_arithmetic subtracts"),
        ({"method": "dare_ties", "base": "base", "drop": 1.01}, "merge.drop: input should be le"),
        ({"method": "dare_linear", "base": "base", "drop": -0.1}, "merge.drop: input should be gr"),
        ({"method": "layerwise", "alpha": 0.0}, "merge.alpha: input should be greater"),
        ({"method": "layerwise", "alpha": 1}, "merge.alpha: input should be less"),
        ({"method": "layerwise", "tilts": [0, 1]}, "2 numbers for 3 blocks and the head; write 4"),
        ({"method": "layerwise", "alpha": 0.9, "tilts": [9, 0, 0, -9]}, "of the earlier model;"),
        ({"method": "task_arithmetic", "base": "base"}, "merge.weights is missing"),
        ({"method": "layerwise", "probe": "x"}, "suite, probe: a search needs both"),
        ({"method": "layerwise", "rounds": 2}, "rounds: is of the search for tilts, and there is"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as refused:
        spec(**settings)
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "number", "line"),
    [
        ({"method": "slerp"}, 3, "from: slerp merges 2 models, not 3"),
        ({"method": "layerwise"}, 1, "from: layerwise merges 2 models, not 1"),
        ({"method": "soup", "weights": [0.5, 0.5]}, 3, "merge.weights: 2 numbers for 3 models"),
        (
            {"method": "task_arithmetic", "base": "base", "weights": [1]},
            2,
            "merge.weights: 1 numbers for 2 models",
        ),
        ({"method": "ties", "base": "base", "weights": [1]}, 2, "1 numbers for 2 models"),
        (
            {"method": "greedy_soup", "suite": "dev.yaml", "probe": "x"},
            1,
            "2 or more models, not 1",
        ),
    ],
)
def test_models_and_settings_must_agree(settings: dict[str, Any], number: int, line: str) -> None:
    assert any(line in problem for problem in spec(**settings).problems(number))


def test_a_negative_weight_forgets() -> None:
    assert spec(method="task_arithmetic", base="base", weights=[-1]).problems(1) == []


def test_what_changes_no_weight_is_no_part_of_the_id() -> None:
    one = spec(method="ties", base="a", shard_bytes=5, unrelated=True)
    other = spec(method="ties", base="b", onto="c")
    assert one.content() == other.content()
    assert one.content() != spec(method="ties", base="a", density=0.3).content()


def test_shares_without_tilts_are_uniform() -> None:
    made = spec(method="layerwise", alpha=0.3)
    assert isinstance(made, Layerwise)
    assert made.alphas() == pytest.approx([0.3] * 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "soup"},
        {"method": "greedy_soup", "suite": "dev.yaml", "probe": "x"},
        {"method": "slerp"},
        {"method": "layerwise"},
        {"method": "layerwise", "suite": "dev.yaml", "probe": "x", "rounds": 3},
        {"method": "task_arithmetic", "base": "a", "onto": "b", "weights": [1, -1]},
        {"method": "ties", "base": "a"},
        {"method": "dare_linear", "base": "a"},
    ],
)
def test_what_is_written_down_is_read_again(settings: dict[str, Any]) -> None:
    made = spec(**settings)
    assert spec(**made.model_dump(mode="json", exclude_none=True)) == made
