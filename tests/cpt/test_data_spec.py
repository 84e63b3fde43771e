"""What a data config may say, and what of it enters an id."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpt.data_spec import DataSpec
from cpt.errors import RecipeError
from cpt.settings import validate

TEXTS = [{"text": f"t{n}"} for n in range(10)]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(TEXTS))
    return path


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({}, "name either path or builder"),
        ({"path": "./a", "builder": "general", "view": "chat"}, "name either path or builder"),
        ({"path": "org/set"}, "path 'org/set' is a hub data set; name its revision"),
        (
            {"path": "org/set", "revision": "a", "format": "json"},
            "format: has no meaning for a hub",
        ),
        ({"path": "./a", "revision": "x"}, "revision: has no meaning for local files; remove it"),
        ({"path": "./a", "split": "test"}, "split: has no meaning for local files; remove it"),
        ({"path": "./a", "streaming": True}, "streaming: has no meaning for local files"),
        ({"path": "./a", "source": "stdlib"}, "source: has no meaning for local files"),
        ({"path": "./a", "validation": {"view": "x"}}, "validation.view: local files has no views"),
        ({"builder": "general", "view": "chat", "name": "x"}, "name: has no meaning for a builder"),
        (
            {"builder": "general", "view": "chat", "validation": {"split": "test"}},
            "validation.split: a builder has no splits; name view or fraction",
        ),
        (
            {"builder": "general", "view": "chat", "validation": {"view": "chat_validatoin"}},
            "view: general has no 'chat_validatoin'; did you mean 'chat_validation'?",
        ),
        ({"path": "./a", "max_bad": 2}, "max_bad: "),
        ({"path": "./a", "limit": 0}, "limit: "),
        ({"path": "./a", "format": "csv"}, "format: input should be 'json', 'parquet' or 'text'"),
    ],
)
def test_a_config_that_means_nothing_is_refused(tree: Any, reason: str) -> None:
    with pytest.raises(RecipeError) as failed:
        validate(DataSpec, tree, "d.yaml")
    assert str(failed.value).startswith(f"d.yaml: {reason}")


def test_labels_are_the_same_wherever_the_files_lie(tmp_path: Path) -> None:
    def label(**tree: Any) -> str:
        return validate(DataSpec, tree, "d.yaml").label

    assert label(path="/here/a.jsonl") == label(path="/there/a.jsonl") == "a.jsonl"
    assert label(path=["/here/a.jsonl", "/b"]) == "a.jsonl and 1 more"
    assert label(path=["/here/a.jsonl"]) == "a.jsonl"
    assert label(path="org/set", revision="x") == "org/set"
    assert label(builder="python_code", source="/my/code", view="documents") == (
        "python_code(code).documents"
    )


def test_the_content_is_of_the_rows_and_not_of_the_place(tmp_path: Path, file: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "a.jsonl").write_bytes(file.read_bytes())

    def content(path: Path, **more: Any) -> dict[str, Any]:
        return validate(DataSpec, {"path": str(path), **more}, "d.yaml").content()

    assert content(file) == content(tmp_path / "else" / "a.jsonl") == content(file, licence="MIT")
    for more in ({"limit": 3}, {"columns": {"a": "b"}}, {"format": "text"}, {"weight": 2}):
        assert content(file) != content(file, **more)
    before = content(file)
    file.write_text(lines(TEXTS[:3]))
    assert content(file) != before


def test_what_only_measures_or_refuses_is_no_part_of_the_content(file: Path) -> None:
    def content(**more: Any) -> dict[str, Any]:
        return validate(DataSpec, {"path": str(file), **more}, "d.yaml").content()

    assert content(max_bad=0.5) == content()
    third = content(validation={"fraction": 0.3})
    assert third == content(validation={"fraction": 0.3, "limit": 5})
    # A fraction is taken from the rows that are trained on.
    assert third != content()
    assert third != content(validation={"fraction": 0.2})

    def hub(**more: Any) -> dict[str, Any]:
        tree = {"path": "org/set", "revision": "0" * 40, **more}
        return validate(DataSpec, tree, "d.yaml").content()

    assert hub(validation={"split": "test"}) == hub(validation={"split": "dev"}) == hub()


@pytest.mark.parametrize("revision", ["main", "master", "HEAD", "refs/pr/3", "refs/heads/main"])
def test_a_branch_is_no_revision(revision: str) -> None:
    with pytest.raises(RecipeError) as failed:
        validate(DataSpec, {"path": "org/set", "revision": revision}, "d.yaml")
    assert str(failed.value).startswith(f"d.yaml: revision: {revision!r} moves, ")
    assert "40 hex digits" in str(failed.value)


@pytest.mark.parametrize("revision", ["0123456789abcdef" * 2 + "01234567", "v1.0", "2024-06-01"])
def test_commits_and_tags_are_revisions(revision: str) -> None:
    spec = validate(DataSpec, {"path": "org/set", "revision": revision}, "d.yaml")
    assert spec.content()["revision"] == revision
