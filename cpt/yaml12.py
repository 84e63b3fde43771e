"""YAML as people mean it: 1.2 scalars, no repeated keys, errors with file and line.

PyYAML speaks YAML 1.1, where `2e-5` is a string, `no` is False and a repeated key wins silently.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from cpt.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)", "~nN"),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), [*_first]
    )
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if text.startswith("0o"):
        return int(text[2:], 8)
    return int(text, 16) if text.startswith("0x") else int(text, 10)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} is not a string; put it in quotes",
                problem_mark=key_node.start_mark,
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"{key!r} is given twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str, where: str) -> Any:
    """Parse one YAML document.

    Args:
        text: the document.
        where: what to call it in errors, a file name or an override.

    Raises:
        RecipeError: bad syntax, a repeated key, or a key that is not a string.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError(f"{where}: {line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: `!!int x`, or a control character
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from None


def load(path: Path) -> Any:
    """Read one YAML file; see `parse`.

    Raises:
        RecipeError: no such file, not text, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file{nearest_file(path)}") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; name the YAML file in it") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def nearest_file(path: Path) -> str:
    """A `; did you mean ...?` that names the most similar neighbour of a missing file, or nothing."""
    import difflib

    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(path.parent / close[0])!r}?" if close else ""
