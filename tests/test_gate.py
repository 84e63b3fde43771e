"""What a chain does after a regression: it warns, goes back, or repairs."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

# What is measured of sft: its prose costs 5 bits per byte more.
WORSE = """
import eval.probe

write = eval.probe.write_result

def rigged(folder, result, *more):
    if folder.name.startswith("sft-"):
        cell = result["probes"]["prose"]
        cell["value"] += 5
        for item in cell["items"]:
            item["value"] += 5
    return write(folder, result, *more)

eval.probe.write_result = rigged
"""


def test_warn_says_what_regressed_and_trains_the_next_stage(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs", until="sft")
    (file,) = (runs / "stages" / finished.ids["sft"] / "probes").iterdir()
    file.unlink()
    ended = processes.smoke(runs, "--until", "dpo", code=WORSE)
    assert ended.code == 0, ended.output
    said, _, after = ended.output.partition("dpo: loading")
    assert "smoke   sft after pretrain   gate: warn   " in said
    (row,) = (
        line
        for line in said.splitlines()
        if line.startswith("prose") and "change" not in line and "regressed" in line
    )
    assert "+4.962" in row
    assert "smoke   dpo after sft   gate: pass   " in after
    assert "the gate stopped" not in ended.output
    finished.assert_equal(runs, "dpo")
    page, text = (runs / "chains" / "smoke" / name for name in ("report.html", "report.md"))
    assert "prose rose by 4.96" in text.read_text()
    assert "prose rose by 4.96" in page.read_text()


def worse(runs: Path, stage: str) -> None:
    """Rig what was measured of a stage: its prose costs 5 bits per byte more."""
    (file,) = (runs / "stages" / stage / "probes").iterdir()
    tree = json.loads(file.read_text())
    cell = tree["probes"]["prose"]
    cell["value"] += 5
    for item in cell["items"]:
        item["value"] += 5
    file.write_text(json.dumps(tree))


def stage_of(runs: Path, name: str) -> Path:
    tree = json.loads((runs / "chains" / "smoke" / "chain.json").read_text())
    ids: dict[str, str] = {node["name"]: node["id"] for node in tree["nodes"]}
    return runs / "stages" / ids[name]


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def test_rollback_ends_at_the_parents_weights_and_the_next_stage_starts_there(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """The stage was made under another gate and kept no candidates."""
    runs = finished.copy(tmp_path / "runs", until="sft")
    worse(runs, finished.ids["sft"])
    changes = ("gate.on_regression=rollback", "--until", "dpo")
    ended = processes.smoke(runs, *changes)
    assert ended.code == 0, ended.output
    assert "the gate acts after sft: rollback\n  prose rose by" in ended.output
    node, dpo = stage_of(runs, "sft.rollback"), stage_of(runs, "dpo")
    weights = "checkpoint/model.safetensors"
    assert (node / weights).samefile(runs / "stages" / finished.ids["pretrain"] / weights)
    rows = (node / "exemplars.jsonl").read_bytes()
    assert rows == (finished.stage("sft") / "exemplars.jsonl").read_bytes()
    entry = manifest_of(dpo)
    assert dpo.name != finished.ids["dpo"]
    assert entry["parents"] == {"parent": node.name, "reference": node.name}
    past = [(stage["name"], stage["id"]) for stage in entry["past"]]
    kept = [(name, finished.ids[name]) for name in ("base", "pretrain")]
    assert past == [*kept, ("sft", node.name)]
    assert entry["checks"]["kl_to_reference_at_start"] == 0
    chain = runs / "chains" / "smoke"
    assert (chain / "2-sft.rollback").resolve() == node
    assert (chain / "3-dpo").resolve() == dpo
    again = processes.smoke(runs, *changes)
    assert again.code == 0, again.output
    assert "nothing to do" in again.output


def test_rollback_looks_at_checkpoints_within_the_stage(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    few = "gate.probes={code_skill: {margin: 1}, format: {margin: 1}}"  # one of their items is a margin
    changes = ("gate.on_regression=rollback", few, "--until", "sft")
    ended = processes.smoke(runs, *changes, code=WORSE)
    assert ended.code == 0, ended.output
    finished.assert_equal(runs, "pretrain")
    sft, node = stage_of(runs, "sft"), stage_of(runs, "sft.rollback")
    assert sft.name == finished.ids["sft"]
    weights = "checkpoint/model.safetensors"
    assert (sft / weights).read_bytes() == (finished.stage("sft") / weights).read_bytes()
    gate = manifest_of(node)["checks"]["gate"]
    assert manifest_of(sft)["checks"]["candidates"] == [2, 4]
    assert [attempt["step"] for attempt in gate["attempts"]] == [2, 4]
    assert gate["step"] in (2, 4)
    assert (node / weights).read_bytes() != (sft / weights).read_bytes()
    assert not (sft / "candidates").exists()
    assert "smoke   sft.rollback after sft + pretrain   gate: pass" in ended.output


# What `kill -9` does between the last attempt and the publishing.
KILL = """
import os
import launch.remedies
launch.remedies.finish = lambda *given: os.kill(os.getpid(), 9)
"""


def test_a_damaged_stage_is_repaired_and_a_kill_costs_no_attempt(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """A learning rate of 0.1 destroys the tiny model's prose."""
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    changes = ["stages.sft.train.learning_rate=0.1", "stages.sft.hooks=[]", "gate.attempts=4"]
    rules = "gate.probes={code_skill: {margin: 1}, format: {margin: 1}, prose: {margin: 0.5}}"
    changes += ["gate.on_regression=repair", rules, "--until", "sft"]
    killed = processes.smoke(runs, *changes, code=KILL)
    assert killed.code == -9, killed.output
    assert "sft.repair: attempt 4 of 4" in killed.output
    ended = processes.smoke(runs, *changes)
    assert ended.code == 0, ended.output
    assert "sft.repair: attempt 4 of 4" in ended.output
    assert ": probe 1/3" not in ended.output
    node = stage_of(runs, "sft.repair")
    gate = manifest_of(node)["checks"]["gate"]
    assert [change["probe"] for change in gate["verdict"]["regressed"]] == ["prose"]
    assert len(gate["attempts"]) == 4
    assert {0 < share < 1 for share in gate["shares"]} == {True}
    (file,) = (node / "gate").iterdir()
    assert json.loads(file.read_text())["action"] == "pass"
