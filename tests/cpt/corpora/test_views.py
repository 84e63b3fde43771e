"""Views are the same everywhere, well-formed, built once, and what is wrong with a source is said."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cpt import corpora
from cpt.errors import DataError
from cpt.ids import short_hash

Views = dict[str, list[dict[str, Any]]]


def roles(messages: list[dict[str, str]]) -> list[str]:
    assert all(message["content"].strip() for message in messages)
    return [message["role"] for message in messages]


def check_row(view: str, row: dict[str, Any]) -> None:
    kind = view.removesuffix("_validation")
    if kind in ("documents", "probe_text", "probe_prose"):
        assert set(row) == {"text"}
        assert row["text"].strip()
    elif kind in ("questions", "chat"):
        assert roles(row["messages"]) == ["user", "assistant"]
    elif kind == "preferences":
        assert roles(row["prompt"]) == ["user"]
        assert roles(row["chosen"]) == roles(row["rejected"]) == ["assistant"]
        assert row["chosen"] != row["rejected"]
    elif kind == "prompts":
        assert roles(row["prompt"]) == ["user"]
        assert row["answer"]
    elif kind == "probe_format":
        assert row["question"]
        assert row["kind"]
    else:
        assert len(set(row["choices"])) == len(row["choices"]) >= 2
        assert row["question"]
        assert 0 <= row["answer"] < len(row["choices"])


@pytest.mark.parametrize("fixture", ["general", "package", "stdlib"])
def test_every_row_is_well_formed(fixture: str, request: pytest.FixtureRequest) -> None:
    views: Views = request.getfixturevalue(fixture)
    assert set(views) == set(
        corpora.view_names("general" if fixture == "general" else "python_code")
    )
    for view, rows in views.items():
        assert rows, view
        for row in rows:
            check_row(view, row)


@pytest.mark.parametrize("fixture", ["general", "stdlib"])
def test_probes_have_a_hundred_different_items(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    views: Views = request.getfixturevalue(fixture)
    for view, rows in views.items():
        if view.startswith("probe_"):
            assert len({str(row) for row in rows}) == len(rows) >= 100, view


def test_views_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "from cpt import corpora\n"
        "from cpt.ids import sha256_file\n"
        "for builder, source in (('general', None), ('python_code', 'yaml')):\n"
        "    for path in sorted(corpora.views(builder, source).iterdir()):\n"
        "        print(path.parent.name, path.name, sha256_file(path))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "CPT_CACHE": str(tmp_path / seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != ""


def write_module(path: Path, number: int) -> None:
    lines = [f"def work_{number}_{i}(a, b_{i}=None, *, c=0):\n    return a\n\n" for i in range(12)]
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ten small modules, and an empty cache."""
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    folder.mkdir()
    for number in range(10):
        write_module(folder / f"module_{number}.py", number)
    return folder


def test_a_folder_is_built_once_and_again_when_it_changes(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = corpora.views("python_code", str(code))
    stamp = (first / "documents.jsonl").stat().st_mtime_ns
    assert corpora.views("python_code", str(code)) == first
    assert (first / "documents.jsonl").stat().st_mtime_ns == stamp
    write_module(code / "module_0.py", 77)
    corpora.fingerprint_of.cache_clear()  # one process sees one state of the files
    assert corpora.views("python_code", str(code)) != first
    assert not list(first.parent.glob("*.partial"))


PINNED = {
    ("general", 2): "bc00a1a5",
    ("python_code", 2): "562d4040",
}


def test_other_rows_have_another_version(code: Path) -> None:
    """Ids hash a builder's version, not its code: who changes rows raises VERSION, then pins here."""
    for builder, source in (("general", None), ("python_code", str(code))):
        version = importlib.import_module(corpora.BUILDERS[builder]).VERSION
        folder = corpora.views(builder, source)
        rows = {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}
        assert PINNED.get((builder, version)) == short_hash(rows), f"raise VERSION of {builder}"


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(code: Path) -> None:
    before = corpora.fingerprint_of("python_code", str(code))
    assert corpora.fingerprint_of("python_code", str(code.rename(code.parent / "moved"))) == before


def test_two_builders_at_once_leave_one_whole_folder(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process publishes while this one builds."""
    from cpt.corpora import python_code

    build = python_code.build

    def build_late(source: str | None) -> Any:
        rows = build(source)
        monkeypatch.setattr(python_code, "build", build)
        corpora.views("python_code", source)
        return rows

    monkeypatch.setattr(python_code, "build", build_late)
    folder = corpora.views("python_code", str(code))
    assert {path.stem for path in folder.iterdir()} == set(corpora.view_names("python_code"))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failed_build_leaves_nothing(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    corpora.fingerprint_of("python_code", str(code))
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(DataError, match=r"cannot write .*No space left"):
        corpora.views("python_code", str(code))
    assert not list((code.parent / "cache" / "corpora").iterdir())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pydantik", "no installed package.*did you mean 'pydantic'"),
        ("PyYAML", "installs the package 'yaml'"),
        ("six", "a single module"),
        ("./nowhere", "no such folder"),
        ("yaml.nothing", "yaml has no package 'nothing'"),
    ],
)
def test_an_unknown_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        corpora.fingerprint_of("python_code", source)


def test_a_source_that_is_too_small_is_refused(code: Path) -> None:
    for number in range(2, 10):
        (code / f"module_{number}.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"usable functions.*name a larger source"):
        corpora.views("python_code", str(code))
    for path in list(code.iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="1 Python files"):
        corpora.views("python_code", str(code))


def test_unknown_builders_and_needless_sources_are_refused() -> None:
    with pytest.raises(DataError, match="did you mean 'python_code'"):
        corpora.views("python_cod", None)
    with pytest.raises(DataError, match="takes no source"):
        corpora.views("general", "stdlib")
