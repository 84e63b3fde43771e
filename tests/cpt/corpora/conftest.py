"""Views that several tests read, built once per session into a cache of the session."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpt import corpora

Views = dict[str, list[dict[str, Any]]]


def read(folder: Path) -> Views:
    """View name -> rows."""
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in folder.glob("*.jsonl")
    }


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def build(cache: Path, builder: str, source: str | None) -> Views:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPT_CACHE", str(cache))
        return read(corpora.views(builder, source))


@pytest.fixture(scope="session")
def general(session_cache: Path) -> Views:
    return build(session_cache, "general", None)


@pytest.fixture(scope="session")
def package(session_cache: Path) -> Views:
    """The views of an installed package, PyYAML."""
    return build(session_cache, "python_code", "yaml")


@pytest.fixture(scope="session")
def stdlib(session_cache: Path) -> Views:
    return build(session_cache, "python_code", "stdlib")
