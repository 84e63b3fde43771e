"""The README shows recipes as they are shipped, and names only what is there."""

import re
from pathlib import Path

import pytest

from cpt.yaml12 import load, parse

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


def test_links_and_paths_are_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    named += re.findall(r"\b((?:recipes|configs|cpt|stages|eval|launch|tests)/[\w./-]+\.\w+)", TEXT)
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing
    assert len(named) > 10
