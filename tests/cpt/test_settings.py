from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import ConfigDict, Field, model_validator

from cpt.errors import DataError, RecipeError
from cpt.settings import Settings, did_you_mean, validate


class Inner(Settings):
    fraction: float | None = Field(default=None, gt=0, lt=1)
    Upper: int = 1


class Outer(Settings):
    name: str
    from_: str | list[str] = Field(default="previous", alias="from")
    action: Literal["warn", "stop"] = "warn"
    seed: int = 0
    inner: Inner | None = None
    parts: list[Inner] = Field(default_factory=list)
    by_name: dict[str, Inner] = Field(default_factory=dict)
    hidden: str = Field(default="", alias="<file>", exclude=True)

    @model_validator(mode="after")
    def _odd(self) -> "Outer":
        if self.name == "odd":
            raise ValueError("name: 'odd' is odd")
        return self


@dataclass
class Hook:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    beta: Annotated[float, Field(ge=0)] = 0.1
    source: Inner | None = None


def message(kind: Any, tree: Any) -> str:
    with pytest.raises(RecipeError) as failed:
        validate(kind, tree, "f.yaml")
    return str(failed.value)


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"name": "x", "sed": 1}, "f.yaml: there is no 'sed'; did you mean 'seed'?"),
        ({"name": "x", "form": "y"}, "f.yaml: there is no 'form'; did you mean 'from'?"),
        ({"name": "x", "from_": "y"}, "f.yaml: there is no 'from_'; did you mean 'from'?"),
        ({"name": "x", "Seed": 1}, "f.yaml: there is no 'Seed'; did you mean 'seed'?"),
        ({"name": "x", "str": 1}, "f.yaml: there is no 'str'; known: action,"),
        (
            {"name": "x", "inner": {"fractoin": 0.1}},
            "f.yaml: inner has no 'fractoin'; did you mean 'fraction'?",
        ),
        (
            {"name": "x", "parts": [{}, {"upper": 2}]},
            "f.yaml: parts.1 has no 'upper'; did you mean 'Upper'?",
        ),
        (
            {"name": "x", "by_name": {"Some[1]": {"uper": 2}}},
            "f.yaml: by_name.Some[1] has no 'uper'; did you mean 'Upper'?",
        ),
        ({}, "f.yaml: name is missing"),
        ({"name": 3}, "f.yaml: name: input should be a valid string, not 3"),
        ({"name": "x", "seed": True}, "f.yaml: seed: input should be a valid integer, not True"),
        ({"name": "x", "seed": "1"}, "f.yaml: seed: input should be a valid integer, not '1'"),
        ({"name": "x", "inner": {"Upper": 1.5}}, "f.yaml: inner.Upper: input should be"),
        (
            {"name": "x", "action": "wran"},
            "f.yaml: action: input should be 'warn' or 'stop', not 'wran'; did you mean 'warn'?",
        ),
        ({"name": "x", "inner": {"fraction": 2.0}}, "f.yaml: inner.fraction: input should be less"),
        ({"name": "x", "from": 3}, "f.yaml: from: input should be a valid string, not 3"),
        ({"name": "x", "from": ["a", 3]}, "f.yaml: from.1: input should be a valid string, not 3"),
        ({"name": "odd"}, "f.yaml: name: 'odd' is odd"),
    ],
)
def test_an_error_names_file_path_value_and_the_nearest_word(tree: Any, line: str) -> None:
    lines = message(Outer, tree).splitlines()
    assert any(found.startswith(line) for found in lines), lines


def test_a_hooks_settings_are_explained_likewise() -> None:
    assert message(Hook, {"bta": 1}) == "f.yaml: there is no 'bta'; did you mean 'beta'?"
    assert message(Hook, {"beta": -1}).startswith("f.yaml: beta: ")
    assert message(Hook, {"source": {"uper": 1}}) == (
        "f.yaml: source has no 'uper'; did you mean 'Upper'?"
    )


def test_all_mistakes_are_told_at_once() -> None:
    lines = message(Outer, {"sed": 1, "action": "go", "parts": [{"a": 1}, {"b": 2}]}).splitlines()
    assert len(lines) == 5
    assert all(line.startswith("f.yaml: ") for line in lines)


def test_a_long_value_is_cut() -> None:
    line = message(Outer, {"name": "x", "seed": ["a" * 500]})
    assert len(line) < 200
    assert line.endswith("...")


def test_the_kind_of_error_is_the_callers() -> None:
    with pytest.raises(DataError):
        validate(int, "x", "f.yaml", DataError)


def test_a_whole_number_is_a_number_and_values_do_not_change() -> None:
    outer = validate(Outer, {"name": "x", "inner": {"fraction": None}}, "f.yaml")
    assert validate(Hook, {"beta": 1}, "f.yaml").beta == 1
    with pytest.raises(ValueError, match="frozen"):
        outer.name = "y"


def test_did_you_mean_lists_what_there_is_when_nothing_is_near() -> None:
    assert did_you_mean("learning_rat", ["learning_rate", "x"]) == "; did you mean 'learning_rate'?"
    assert did_you_mean("qqq", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("qqq", []) == ""
