"""A setting as people read it: its type, its default, and what its docstring says of it."""

import dataclasses
import json
import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

_WORDS = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_BOUNDS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting, in words; `default` is as YAML has it, or `needed`."""

    name: str
    type: str
    default: str
    help: str


def type_text(kind: Any) -> str:
    """`number, >= 0, < 1`, `reverse or forward`, `list of text`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([type_text(arguments[0]), *bounds(arguments[1:])])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(each) for each in arguments)
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if kind in _WORDS:
        return _WORDS[kind]
    # `DataSpec` -> `data config`: what a person writes is a config's name or its settings.
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", getattr(kind, "__name__", str(kind))).lower()
    return re.sub(r" spec$", " config", words)


def default_text(setting: "dataclasses.Field[Any]") -> str:
    """The default as YAML has it."""
    if setting.default_factory is not dataclasses.MISSING:
        return in_yaml(setting.default_factory())
    return "needed" if setting.default is dataclasses.MISSING else in_yaml(setting.default)


def documented(docstring: str) -> dict[str, str]:
    """Setting -> what the part `Settings:` of a docstring says of it; `a, b: ...` is of both."""
    _, found, part = docstring.partition("\nSettings:\n")
    if not found:
        return {}
    said: dict[str, str] = {}
    names: list[str] = []
    for line in part.splitlines():
        if line and not line.startswith(" "):
            break
        if entry := re.match(r"    (\w+(?:, \w+)*): +(.*)", line):
            names = entry[1].split(", ")
            said |= dict.fromkeys(names, entry[2].strip())
        else:
            said |= {name: f"{said[name]} {line.strip()}".strip() for name in names}
    return said


def bounds(marks: Iterable[Any]) -> list[str]:
    """`>= 0`, of the marks of a field."""
    # Pydantic's Field keeps its bounds as marks of its own.
    marks = tuple(each for mark in marks for each in getattr(mark, "metadata", [mark]))
    return [
        f"{sign} {getattr(mark, name):g}"
        for kind, name, sign in _BOUNDS
        for mark in marks
        if isinstance(mark, kind)
    ]


def in_yaml(value: Any) -> str:
    """A value as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
