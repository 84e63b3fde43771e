import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import provenance
from stages.provenance import FIELDS, code, environment, packages


def test_of_the_environment_only_what_can_change_numbers_is_kept() -> None:
    given = {
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "2",
        "NCCL_ALGO": "Ring",
        "CPT_NOTE": "the word is hidden-word-1",
        "MY_PASSWORD": "hidden-word-1",
        "HF_TOKEN": "hidden-word-2",
        "HOME": "/home/me",
        "PATH": "/usr/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_ACCOUNT": "secret",
    }
    assert environment(given) == {
        "CPT_NOTE": "the word is [redacted:MY_PASSWORD]",
        "CUDA_VISIBLE_DEVICES": "0",
        "NCCL_ALGO": "Ring",
        "OMP_NUM_THREADS": "2",
        "SLURM_JOB_ID": "7",
    }


def test_all_that_is_installed_is_there() -> None:
    found = packages()
    names = {name.replace("-", "_").lower() for name in found}
    assert {"torch", "numpy", "tokenizers", "safetensors", "pydantic", "pytest"} <= names
    assert [*found] == sorted(found, key=str.lower)


def test_code_with_changes_has_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, str | None] = {"rev-parse": "abc", "diff": "", "ls-files": "x", "-c": ""}
    monkeypatch.setattr(provenance, "_git", lambda verb, *more: said[verb])
    assert code() == {"commit": "abc", "dirty": False}
    said["diff"] = "+ a line"
    one = code()
    assert one["dirty"] is True
    said["diff"] = "+ another"
    assert code()["diff"] != one["diff"]
    said["diff"] = None
    assert code() == {"commit": "abc", "dirty": None}
    said["rev-parse"] = None
    assert code() == {}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A checkout that holds this module, as far as git can tell."""
    file = tmp_path / "stages" / "provenance.py"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(provenance, "__file__", str(file))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    return git


def test_a_module_that_git_does_not_know_is_a_difference(
    repository: Callable[..., str], tmp_path: Path
) -> None:
    repository("add", ".")
    repository("commit", "-m", "all")
    commit = repository("rev-parse", "HEAD")
    (tmp_path / "notes.txt").touch()
    assert code() == {"commit": commit, "dirty": False}
    (tmp_path / "stages" / "m\u00f6re.py").write_text("x = 1\n", encoding="utf-8")
    one = code()
    assert one["dirty"] is True
    (tmp_path / "stages" / "m\u00f6re.py").write_text("x = 2\n", encoding="utf-8")
    assert code()["diff"] != one["diff"]


def test_the_commit_of_another_repository_is_not_this_codes(
    repository: Callable[..., str], tmp_path: Path
) -> None:
    """As where an environment lies in the folder of somebody's project."""
    (tmp_path / "mine.txt").touch()
    repository("add", "mine.txt")
    repository("commit", "-m", "mine")
    assert code() == {}


def test_it_is_json_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-1234567890")
    how: dict[str, Any] = {"command": "cpt run a canary-1234567890", "recipe": {"stages": {"a": 1}}}
    found = provenance.provenance(how, {"dtype": "float32"})
    assert {*found} == {*FIELDS}
    assert "canary-1234567890" not in json.dumps(found)
    assert found["how"]["command"] == "cpt run a [redacted:HF_TOKEN]"
    assert found["load"] == {"trust_remote_code": False, "dtype": "float32"}
    assert provenance.provenance(how, {"trust_remote_code": True})["load"]["trust_remote_code"]
