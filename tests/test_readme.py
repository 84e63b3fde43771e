"""The README shows recipes as they are shipped, and names only what is there."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from cpt.hooks import roles, table
from cpt.yaml12 import load, parse
from launch.backend import BACKENDS
from launch.ran import NEVER

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL)


def test_recipes_are_shown() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize(("path", "text"), BLOCKS, ids=[path for path, _ in BLOCKS])
def test_a_shown_recipe_is_the_shipped_one(path: str, text: str) -> None:
    assert parse(text, "README.md") == load(ROOT / path)


def test_the_shown_hook_is_the_tested_one() -> None:
    ((path, code),) = re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL)
    assert code == (ROOT / path).read_text(encoding="utf-8")
    (section,) = re.findall(r"### Your own method\n(.*?)\nTo add one here", TEXT, flags=re.DOTALL)
    assert len(section.splitlines()) <= 25


HOOKS = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]*) \| ([^|]*) \| (.*) \|$", TEXT, re.MULTILINE)
HOOKS = [row for row in HOOKS if set(re.findall(r"`(\w+)`", row[0])) & table.TABLE.keys()]


def test_every_hook_has_its_row_and_its_label() -> None:
    named = [name for row in HOOKS for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(table.TABLE)
    for hooks, _, evidence, _ in HOOKS:
        for name in re.findall(r"`(\w+)`", hooks):
            card = table.hook_class(name, "").card
            assert card is not None
            assert card.evidence == evidence


@pytest.mark.parametrize("row", HOOKS, ids=[row[0] for row in HOOKS])
def test_settings_of_hooks_are_there(row: tuple[str, ...]) -> None:
    """And the choices that are shown of a setting are all of them."""
    known: dict[str, set[str]] = {}
    for name in re.findall(r"`(\w+)`", row[0]):
        kind = table.hook_class(name, "")
        types = table.types_of(kind)
        known |= {s.name: _choices(types[s.name]) for s in fields(kind) if s.init}  # type: ignore[arg-type]
    shown = [part.partition(": ") for part in re.findall(r"`([^`]+)`", row[3])]
    words = {word for key, _, value in shown for word in (key, value) if word}
    assert words <= {*known, *table.TABLE, *roles.ROLES}.union(*known.values())
    for key, _, value in shown:
        if value:
            assert known[key] <= words, f"{key} can also be {known[key] - words}"
    assert words & known.keys()


def _choices(kind: Any) -> set[str]:
    """The words of the literals in a type."""
    if get_origin(kind) is Literal:
        return {str(word) for word in get_args(kind)}
    return set[str]().union(*map(_choices, get_args(kind)))


RAN = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| [^|]+ \| ([^|]+) \|$", TEXT, re.MULTILINE)
RAN = [(re.findall(r"`([\w-]+)`", names), told) for names, told in RAN]
RAN = [(names, told) for names, told in RAN if {*names} & BACKENDS.keys()]


def test_every_backend_says_where_it_ran() -> None:
    assert sorted(name for names, _ in RAN for name in names) == sorted(BACKENDS)
    for names, told in RAN:
        for name in names:
            assert BACKENDS[name].ran.told == told, name
            assert (NEVER in told) == (not BACKENDS[name].ran.hardware)


def test_links_and_paths_are_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    named += re.findall(r"\b((?:recipes|configs|cpt|stages|eval|launch|tests)/[\w./-]+\.\w+)", TEXT)
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing
    assert len(named) > 10
