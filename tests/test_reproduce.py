"""A stage made again on the parents that are there is the same to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain


def test_a_stage_made_again_is_equal(finished: Any, processes: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="sft")
    files = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    again = tmp_path / "again"
    given = ("reproduce", finished.ids["sft"], "--runs", runs, "--run", again)
    ended = processes.run(*given)
    assert ended.code == 0, ended.output
    assert "sft: step" in ended.output
    assert "pretrain: step" not in ended.output
    assert f"{finished.ids['sft']}: equal to the bit" in ended.output
    finished.assert_equal(again, "sft")
    assert files == {path: path.stat().st_mtime_ns for path in runs.rglob("*")}

    entry = json.loads((again / "stages" / finished.ids["sft"] / "manifest.json").read_text())
    assert entry["version"] == 2
    assert entry["how"]["recipe"]["stages"]["sft"]
    assert entry["load"]["trust_remote_code"] is False
    assert entry["machine"]["cpu"]

    # Now made, it is compared without being made: with another result it tells where.
    (runs / "stages" / finished.ids["sft"] / "exemplars.jsonl").write_text("{}\n")
    ended = processes.run(*given)
    assert ended.code == 1, ended.output
    assert "exemplars.jsonl: other bytes" in ended.output
    assert "sft: step" not in ended.output
