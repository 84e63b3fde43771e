"""A chain that is no line: two branches, trained, probed and reported from one recipe."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain


def test_branches_are_trained_from_the_stages_that_they_name(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """base -> pretrain -> sft -> grpo, and base -> dpo."""
    runs = finished.copy(tmp_path / "runs", until="sft")
    branches = ["stages.dpo.from=base", "stages.grpo.from=sft"]
    ended = processes.smoke(runs, *branches)
    assert ended.code == 0, ended.output
    chain = runs / "chains" / "smoke"
    tree = json.loads((chain / "chain.json").read_text())
    ids = {node["name"]: node["id"] for node in tree["nodes"]}
    assert [name for name in ids if ids[name] == finished.ids[name]] == ["base", "pretrain", "sft"]

    past = {"dpo": ["base"], "grpo": ["base", "pretrain", "sft"]}
    starts = {}
    for name, before in past.items():
        folder = runs / "stages" / ids[name]
        entry = json.loads((folder / "manifest.json").read_text())
        assert [ancestor["name"] for ancestor in entry["past"]] == before
        # Each branch is its own reference before its first step: both started where they should.
        assert entry["parents"] == {"parent": ids[before[-1]], "reference": ids[before[-1]]}
        assert entry["checks"]["kl_to_reference_at_start"] == pytest.approx(0, abs=1e-7)
        starts[name] = weights(finished.stage(before[-1]))
    for name, folder in ((name, runs / "stages" / ids[name]) for name in past):
        made = weights(folder)
        near = {start: distance(made, value) for start, value in starts.items()}
        assert 0 < near[name] < min(far for start, far in near.items() if start != name)

    page, text = (chain / "report.html").read_text(), (chain / "report.md").read_text()
    matrix = (chain / "matrix.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in matrix] == [[name, ids[name]] for name in ids]
    for name in ids:
        assert name in page
        assert name in text
        assert (chain / f"{[*ids].index(name)}-{name}").resolve().name == ids[name]
    again = processes.smoke(runs, *branches)
    assert again.code == 0, again.output
    assert "nothing to do" in again.output


def weights(stage: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(stage / "checkpoint" / "model.safetensors"))


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Between two sets of weights, in the Euclidean norm."""
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))
