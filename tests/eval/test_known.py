"""Cells of earlier results, by fingerprint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.known import is_complete, is_current, known_cells, known_results, packages_of
from eval.probe import probe_checkpoint, probe_model, write_result
from eval.suite import Probe, Suite

LIKE = {"version": 1, "packages": {"lm_eval": "0"}}


def probe(name: str, fingerprint: str, margin: float | None = 0.1) -> Probe:
    return Probe(name, name, "reasoning", "acc", 0, False, None, margin, None, None, fingerprint)


def suite(*probes: Probe) -> Suite:
    return Suite("s", Path("s.yaml"), 4, None, {each.name: each for each in probes})


def cell(fingerprint: str, value: float) -> dict[str, Any]:
    item = {"id": "a", "value": value, "weight": 1.0, "text": "", "answer": ""}
    return {
        "metric": "acc", "group": "language", "higher_is_better": True, "margin": None,
        "value": value, "stderr": 0.0, "items": [item], "fingerprint": fingerprint,
    }  # fmt: skip


def write(file: Path, cells: dict[str, Any], **changes: Any) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(LIKE | {"suite_hash": "x", "probes": cells} | changes))
    return file


def test_a_probe_is_known_by_its_fingerprint_whatever_it_was_called(tmp_path: Path) -> None:
    one = write(tmp_path / "1.json", {"old": cell("f1", 0.25), "other": cell("f9", 1.0)})
    two = write(tmp_path / "2.json", {"b": cell("f2", 0.75)})
    asked = suite(probe("a", "f1"), probe("b", "f3"), probe("c", "f2", None), probe("d", "f1", 0.5))
    found = known_cells([one, two], asked, LIKE)
    assert {name: c["value"] for name, c in found.items()} == {"a": 0.25, "c": 0.75, "d": 0.25}
    assert [c["margin"] for c in found.values()] == [0.1, None, 0.5]
    assert {c["group"] for c in found.values()} == {"reasoning"}
    assert not is_complete(found, asked)
    assert is_complete(found, suite(probe("a", "f1"), probe("d", "f1")))


def test_other_versions_and_broken_files_are_measured_again(tmp_path: Path) -> None:
    asked, cells = suite(probe("a", "f1")), {"a": cell("f1", 0.5)}
    good = write(tmp_path / "good.json", cells)
    write(tmp_path / "version.json", cells, version=0)
    write(tmp_path / "packages.json", cells, packages={"lm_eval": "1"})
    write(tmp_path / "nan.json", {"a": cell("f1", float("nan"))})
    (tmp_path / "half.json").write_text(good.read_text()[:50])
    for file in tmp_path.glob("*.json"):
        assert bool(known_cells([file], asked, LIKE)) == (file == good), file
    assert known_cells([tmp_path / "none.json"], asked, LIKE) == {}
    assert known_results([good], asked) == {}  # of other packages than ours


def test_a_result_of_other_packages_is_not_current(tmp_path: Path) -> None:
    asked = suite(probe("a", "f1"))
    assert not is_current(tmp_path / "none.json", asked)
    made = probe_model(
        None, None, asked, cache=tmp_path, stage_id="s", known={"a": cell("f1", 0.5)}
    )
    file = write_result(tmp_path, made)
    assert is_current(file, asked)
    file.write_text(json.dumps(made, indent=1))  # as another program writes JSON
    assert is_current(file, asked)
    made["packages"]["torch"] = "0"
    assert not is_current(write_result(tmp_path, made), asked)
    file.write_text("{")
    assert not is_current(file, asked)


def test_vllm_s_version_counts_where_it_measured() -> None:
    asked = suite(probe("a", "f1"))
    assert "vllm" not in packages_of(asked)
    assert "vllm" in packages_of(replace(asked, backend="vllm"))


def test_a_result_of_known_cells_alone_needs_no_model(tmp_path: Path) -> None:
    asked = suite(probe("a", "f1"))
    cells = {"a": cell("f1", 0.5)}
    first = probe_model(None, None, asked, cache=tmp_path, stage_id="sft-1", known=cells)
    assert (first["probes"], first["seconds"], first["suite_hash"]) == (cells, 0.0, asked.hash)
    file = write_result(tmp_path / "stage", first)
    more = replace(asked, name="t", probes=asked.probes | {"again": probe("again", "f1")})
    assert more.hash != asked.hash
    known = known_results(file.parent.glob("*.json"), more)
    again = probe_checkpoint("no/such/model", more, cache=tmp_path, known=known)
    assert [*again["probes"]] == ["a", "again"]


@pytest.mark.parametrize("known", [None, {}])
def test_nothing_known_is_nothing_complete(known: dict[str, Any] | None) -> None:
    assert not is_complete(known, suite(probe("a", "f1")))
