"""Relative change by group: direction, units and bases near zero."""

import pytest

from eval.by_group import by_group
from eval.matrix import Item, Matrix, Row, Score
from eval.means import ratio_stderr, weighted_mean


def score(probe: str, group: str, metric: str, higher: bool, values: list[float]) -> Score:
    items = tuple(Item(str(i), v, 1.0, "", "") for i, v in enumerate(values))
    value, stderr = weighted_mean(items), ratio_stderr(items)
    return Score(probe, metric, group, higher, None, value, stderr, items, "f")


def test_groups_by_hand() -> None:
    pairs = {
        ("facts", "knowledge", "acc", True): ([1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
        ("text", "knowledge", "bits_per_byte", False): ([2.0, 2.0], [2.2, 2.2]),
        ("code", "code", "acc", True): ([0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
    }
    rows = tuple(
        Row(stage, stage, {key[0]: score(*key, values[i]) for key, values in pairs.items()})
        for i, stage in enumerate(("base", "sft"))
    )
    knowledge, code = by_group(Matrix("small", "0", rows, ("facts", "text", "code")))
    assert knowledge.group == "knowledge"
    # a resample may hold no right item at all, so that only the text has a ratio
    assert knowledge.near_zero == ("facts",)
    assert knowledge.relative is not None
    assert knowledge.relative.value == pytest.approx(-10)
    assert knowledge.absolute["share"].value == pytest.approx(-0.25)
    assert knowledge.absolute["bits_per_byte"].value == pytest.approx(-0.2)
    assert (code.relative, code.near_zero) == (None, ("code",))
    assert code.absolute["share"].value == pytest.approx(0.25)


def test_percent_of_the_base_averaged_over_the_probes_of_a_group() -> None:
    names, falls = ("a", "b"), (0.1, 0.3)
    rows = tuple(
        Row(stage, stage, {
            name: score(name, "reasoning", "acc", True, [0.5 - fall * i] * 50)
            for name, fall in zip(names, falls, strict=True)
        })
        for i, stage in enumerate(("base", "sft"))
    )  # fmt: skip
    (found,) = by_group(Matrix("small", "0", rows, names))
    assert found.relative is not None
    assert found.relative.value == pytest.approx(-(20 + 60) / 2)
    assert found.near_zero == ()
