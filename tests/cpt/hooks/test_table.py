"""A hook's settings are read as strictly as the rest of a recipe."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from cpt.errors import RecipeError
from cpt.hooks import table
from cpt.hooks.base import Hook


def numbers() -> list[tuple[str, str]]:
    """(hook, setting) of everything in the table that is a number."""
    return [
        (name, setting)
        for name in table.names()
        for kind in [table.hook_class(name, "")]
        for setting, of in table.types_of(kind).items()
        if getattr(of, "__origin__", of) in (int, float)
    ]


@pytest.mark.parametrize(("hook", "setting"), numbers())
@pytest.mark.parametrize("value", [True, "1", [1], None])
def test_what_is_no_number_is_none(hook: str, setting: str, value: Any) -> None:
    with pytest.raises(RecipeError) as failed:
        table.build(hook, {setting: value}, "sft.yaml")
    message = str(failed.value)
    assert message.startswith(f"sft.yaml: hooks.{hook}: {setting}: input should be a valid ")
    assert message.endswith(f", not {value!r}")


def test_a_whole_number_is_a_number() -> None:
    decay = table.build("ema", {"decay": 0}, "x").decay  # type: ignore[attr-defined]
    assert (decay, type(decay)) == (0.0, float)
    assert table.settings_of(table.build("lora", {"alpha": 4}, "x"))["alpha"] == 4.0
    with pytest.raises(RecipeError, match=r"lora: rank: input should be a valid integer, not 2\.0"):
        table.build("lora", {"rank": 2.0}, "x")


def test_what_is_not_written_is_the_hooks_own_default() -> None:
    for name in ("kl", "lora", "ema", "interpolate"):
        assert table.build(name, {}, "x") == table.hook_class(name, "x")()


def test_settings_that_do_not_go_together_name_the_file_and_the_hook() -> None:
    with pytest.raises(RecipeError, match=r"^sft\.yaml: hooks\.kl: `of` names one earlier stage"):
        table.build("kl", {"of": "all"}, "sft.yaml")


def test_a_setting_of_weights_that_are_not_quantised_is_refused() -> None:
    for settings in ({"double": False}, {"compute": "float32"}):
        with pytest.raises(RecipeError, match=r"sft.yaml: hooks.lora: .*; write quantise: nf4"):
            table.build("lora", settings, "sft.yaml")


def test_a_setting_that_came_later_changes_no_id() -> None:
    assert "quantise" not in table.settings_of(table.build("lora", {}, "sft.yaml"))
    assert (
        table.settings_of(table.build("lora", {"quantise": "nf4"}, "sft.yaml"))["quantise"] == "nf4"
    )


def test_a_hook_of_another_package_is_as_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Freeze(Hook):
        name: ClassVar[str] = "freeze"
        layers: int
        strength: Annotated[float, Field(gt=0)] = 1.0

    monkeypatch.setattr(table, "hook_class", lambda name, where: Freeze)
    assert table.build("freeze", {"layers": 3}, "x") == Freeze(3)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({}, "layers is missing"),
        ({"layers": True}, "layers: input should be a valid integer, not True"),
        ({"layers": 1, "strength": 0}, "strength: input should be greater than 0, not 0"),
        ({"layers": 1, "strenght": 2}, "there is no 'strenght'; did you mean 'strength'?"),
    ]
    for settings, words in refusals:
        with pytest.raises(RecipeError) as failed:
            table.build("freeze", settings, "sft.yaml")
        assert str(failed.value) == f"sft.yaml: hooks.freeze: {words}"
