"""A chain that is no line: two branches, trained, probed and reported from one recipe."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"


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


def test_two_experts_of_one_stage_are_merged(finished: Any, processes: Any, tmp_path: Path) -> None:
    """base -> pretrain -> {sft, dpo} -> both, as TIES of what each learned."""
    runs = finished.copy(tmp_path / "runs", until="sft")
    merge = "{kind: merge, from: [sft, dpo], merge: {method: ties, base: pretrain, density: 0.5}}"
    changes = ["stages.dpo.from=pretrain", f"stages.grpo={merge}"]
    ended = processes.smoke(runs, *changes)
    assert ended.code == 0, ended.output
    chain = runs / "chains" / "smoke"
    nodes = {n["name"]: n for n in json.loads((chain / "chain.json").read_text())["nodes"]}
    ids = {name: node["id"] for name, node in nodes.items()}
    assert ids["sft"] == finished.ids["sft"]
    assert nodes["grpo"]["parents"] == ["sft", "dpo"]
    made = runs / "stages" / ids["grpo"]
    entry = json.loads((made / "manifest.json").read_text())
    assert [ancestor["name"] for ancestor in entry["past"]] == ["base", "pretrain", "sft", "dpo"]
    base = weights(runs / "stages" / ids["pretrain"])
    found, *experts = (weights(runs / "stages" / ids[name]) for name in ("grpo", "sft", "dpo"))
    changed = 0
    for name, tensor in found.items():
        change = tensor - base[name]
        one, other = (expert[name] - base[name] for expert in experts)
        changed += int((change != 0).sum())
        most = one.abs().maximum(other.abs())
        assert (change.abs() <= most * (1 + 1e-4) + 1e-6).all()
    number = sum(tensor.numel() for tensor in found.values())
    # Of each expert half of its entries stay; where the signs differ one of both is outvoted.
    assert 0.4 * number < changed < number
    probes = list(made.glob("probes/*.json"))
    assert len(probes) == 1
    page, text = (chain / "report.html").read_text(), (chain / "report.md").read_text()
    assert "ties (" in page
    assert "sft and dpo" in page
    assert ids["grpo"] in text
    planned = processes.start(
        "plan", str(SMOKE / "chain.yaml"), *changes, "--runs", str(runs)
    ).wait()
    line = next(line for line in planned.output.splitlines() if ids["grpo"] in line)
    assert " ties " in line
    assert "done, probed" in line
    again = processes.smoke(runs, *changes)
    assert again.code == 0, again.output
    assert "nothing to do" in again.output


def weights(stage: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(stage / "checkpoint" / "model.safetensors"))


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Between two sets of weights, in the Euclidean norm."""
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))
