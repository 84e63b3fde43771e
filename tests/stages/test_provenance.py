import json
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
    said: dict[str, str | None] = {"rev-parse": "abc", "diff": ""}
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


def test_it_is_json_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-1234567890")
    how: dict[str, Any] = {"command": "cpt run a canary-1234567890", "recipe": {"stages": {"a": 1}}}
    found = provenance.provenance(how, {"dtype": "float32"})
    assert {*found} == {*FIELDS}
    assert "canary-1234567890" not in json.dumps(found)
    assert found["how"]["command"] == "cpt run a [redacted:HF_TOKEN]"
    assert found["load"] == {"trust_remote_code": False, "dtype": "float32"}
    assert provenance.provenance(how, {"trust_remote_code": True})["load"]["trust_remote_code"]
