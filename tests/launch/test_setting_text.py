"""Settings in words: types, bounds, defaults, and what the docstring says of each."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from cpt.data_spec import DataSpec
from launch.setting_text import default_text, documented, type_text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "whole number"),
        (bool, "true or false"),
        (Annotated[float, Field(ge=0, lt=1)], "number, >= 0, < 1"),
        (Annotated[float, Field(gt=0, allow_inf_nan=False)], "number, > 0"),
        (Annotated[int, Field(ge=1, le=9)] | None, "whole number, >= 1, <= 9 or null"),
        (Literal["a", "b"], "a or b"),
        (str | list[str] | None, "text or list of text or null"),
        (dict[str, float], "mapping of text to number"),
        (DataSpec | None, "data config or null"),
        (Any, "any"),
    ],
)
def test_types(kind: Any, words: str) -> None:
    assert type_text(kind) == words


def test_defaults_are_written_as_in_yaml() -> None:
    @dataclass
    class Settings:
        needed: int
        text: str = "all"
        nothing: str | None = None
        yes: bool = True
        many: list[str] = field(default_factory=lambda: ["a"])

    assert [default_text(each) for each in fields(Settings)] == [
        *("needed", "all", "null", "true", '["a"]'),
    ]


DOCSTRING = """First line.

Settings:
    rank, alpha: of the adapter,
        both of them.
    after: `merge`: the merged weights; `keep`: those below.

Source: somewhere.
"""


def test_a_docstring_explains_its_settings() -> None:
    both = "of the adapter, both of them."
    after = "`merge`: the merged weights; `keep`: those below."
    assert documented(DOCSTRING) == {"rank": both, "alpha": both, "after": after}
    assert documented("First line.\n\nSource: none.") == {}
