from typing import Any

import pytest

from cpt import overrides
from cpt.errors import RecipeError

TOP = ("name", "seed", "gate", "stages")


def tree() -> dict[str, Any]:
    return {
        "name": "x",
        "stages": {
            "sft": {
                "train": {"learning_rate": 1e-5},
                "data": [{"path": "a"}, {"path": "b"}],
                "hooks": [{"kl": {"beta": 0.1}}, "ema", {"replay": None}],
            },
            "dpo": {"hooks": [{"replay": {"share": 0.1}}, {"replay": {"share": 0.2}}]},
        },
    }


def changed(text: str) -> dict[str, Any]:
    result = tree()
    parts, value = overrides.split(text)
    overrides.apply(result, parts, value, text, TOP)
    return result


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as failed:
        changed(text)
    assert str(failed.value).startswith(f"{text}: ")
    return str(failed.value).removeprefix(f"{text}: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3e-6", 3e-6),
        ("a.b=no", "no"),
        ("a.b=[1, {c: 2}]", [1, {"c": 2}]),
        ("a.b=x=y", "x=y"),
        ("a.b=", None),
    ],
)
def test_the_value_is_yaml(text: str, value: Any) -> None:
    assert overrides.split(text) == (["a", "b"], value)


@pytest.mark.parametrize("text", ["seed", "=1", "a..b=1", ".a=1"])
def test_what_is_no_override_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="path=value"):
        overrides.split(text)


def test_bad_yaml_in_a_value_names_the_override() -> None:
    with pytest.raises(RecipeError, match=r"^a=\[1: line 1: "):
        overrides.split("a=[1")


def test_values_are_set_and_mappings_made_on_the_way() -> None:
    assert changed("seed=18")["seed"] == 18
    assert changed("stages.sft.train.learning_rate=3e-6")["stages"]["sft"]["train"] == {
        "learning_rate": 3e-6
    }
    assert changed("gate.margin=0.1")["gate"] == {"margin": 0.1}
    assert changed("stages.dpo.train.beta=1")["stages"]["dpo"]["train"] == {"beta": 1}


@pytest.mark.parametrize(
    ("text", "number", "hook"),
    [
        ("stages.sft.hooks.kl.beta=0.2", 0, {"kl": {"beta": 0.2}}),
        ("stages.sft.hooks.kl.of=base", 0, {"kl": {"beta": 0.1, "of": "base"}}),
        ("stages.sft.hooks.ema.decay=0.5", 1, {"ema": {"decay": 0.5}}),
        ("stages.sft.hooks.replay.share=0.5", 2, {"replay": {"share": 0.5}}),
        ("stages.sft.hooks.kl={beta: 1}", 0, {"kl": {"beta": 1}}),
        ("stages.sft.hooks.ema={decay: 0.5}", 1, {"ema": {"decay": 0.5}}),
        ("stages.sft.hooks.1=lora", 1, "lora"),
        ("stages.sft.hooks.0.beta=0.2", 0, {"kl": {"beta": 0.2}}),
        ("stages.sft.hooks.0.kl.beta=0.2", 0, {"kl": {"beta": 0.2}}),
        ("stages.dpo.hooks.1.share=0.3", 1, {"replay": {"share": 0.3}}),
    ],
)
def test_hooks_are_named_by_name_or_index(text: str, number: int, hook: Any) -> None:
    stage = text.split(".")[1]
    hooks = changed(text)["stages"][stage]["hooks"]
    assert hooks[number] == hook
    before = tree()["stages"][stage]["hooks"]
    assert [*hooks[:number], *hooks[number + 1 :]] == [*before[:number], *before[number + 1 :]]


def test_items_of_a_data_list_are_named_by_index() -> None:
    data = changed("stages.sft.data.1.limit=5")["stages"]["sft"]["data"]
    assert data == [{"path": "a"}, {"path": "b", "limit": 5}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stages.sf.train.learning_rate=3e-6", "stages has no 'sf'; did you mean 'sft'?"),
        ("stages.sf={}", "stages has no 'sf'; did you mean 'sft'?"),
        ("sed=1", "a recipe has no 'sed'; did you mean 'seed'?"),
        (
            "stages.sft.hooks.repaly.of=x",
            "stages.sft.hooks has no 'repaly'; did you mean 'replay'?",
        ),
        ("stages.sft.hooks.7.beta=1", "stages.sft.hooks has no '7'; known: ema, kl, replay"),
        (
            "stages.dpo.hooks.replay.share=0.3",
            "stages.dpo.hooks has 2 items called 'replay'; name one by its index, 0 or 1",
        ),
        ("stages.sft.train.learning_rate.x=1", "stages.sft.train.learning_rate is 1e-05"),
        ("stages.sft.data.limit=5", "stages.sft.data has no 'limit'; it has 2 items"),
        ("stages.sft.data.2.limit=5", "stages.sft.data has no '2'; it has 2 items"),
    ],
)
def test_a_path_that_names_nothing_is_refused(text: str, reason: str) -> None:
    assert refusal(text).startswith(reason)


def test_hooks_are_never_made_by_a_path() -> None:
    bare = {"stages": {"sft": {"kind": "sft"}}}
    parts, value = overrides.split("stages.sft.hooks.kl.beta=1")
    with pytest.raises(RecipeError, match=r"stages\.sft\.hooks has no 'kl'; it has no items"):
        overrides.apply(bare, parts, value, "x", TOP)
