"""A stage made again on the parents that are there is the same to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMOKE

pytestmark = pytest.mark.chain


def test_a_stage_made_again_is_equal(finished: Any, processes: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="sft")
    # Not what `cache` notes of digests that were checked.
    files = {path: path.stat().st_mtime_ns for path in (runs / "stages").rglob("*")}
    again = tmp_path / "again"
    given = ("reproduce", finished.ids["sft"], "--runs", runs, "--run", again)
    ended = processes.run(*given)
    assert ended.code == 0, ended.output
    assert "sft: step" in ended.output
    assert "pretrain: step" not in ended.output
    assert f"{finished.ids['sft']}: equal to the bit" in ended.output
    finished.assert_equal(again, "sft")
    assert files == {path: path.stat().st_mtime_ns for path in (runs / "stages").rglob("*")}

    entry = json.loads((again / "stages" / finished.ids["sft"] / "manifest.json").read_text())
    assert entry["version"] == 2
    assert entry["how"]["recipe"]["stages"]["sft"]
    assert entry["load"]["trust_remote_code"] is False
    assert entry["machine"]["cpu"]

    # Now made, it is compared without being made: with another result it tells where.
    (again / "stages" / finished.ids["sft"] / "exemplars.jsonl").write_text("{}\n")
    ended = processes.run(*given)
    assert ended.code == 1, ended.output
    assert "exemplars.jsonl: other bytes" in ended.output
    assert "sft: step" not in ended.output


def test_the_same_recipe_in_two_stores_gives_equal_bits(finished: Any, tmp_path: Path) -> None:
    """From another working folder, and with sets in another order."""
    hashes = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    code = "import sys; from launch.cli import main; sys.exit(main(sys.argv[1:]))"
    variables = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": str(SMOKE.parents[1])}
    given = ["run", str(SMOKE / "chain.yaml"), "--runs", "again"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    finished.assert_equal(tmp_path / "again")
    entry = json.loads(
        (tmp_path / "again" / "stages" / finished.ids["sft"] / "manifest.json").read_text()
    )
    assert entry["environment"]["PYTHONHASHSEED"] == hashes
    for name, stage_id in finished.ids.items():
        one, other = (
            json.loads((runs / "stages" / stage_id / "manifest.json").read_text())["files"]
            for runs in (finished.runs, tmp_path / "again")
        )
        weights = [key for key in one if key.endswith(".safetensors")]
        assert weights, name
        assert [one[key] for key in weights] == [other[key] for key in weights], name


def test_a_deterministic_chain_says_so_and_repeats(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    ended = processes.smoke(runs, "--deterministic", "--until", "sft")
    assert ended.code == 0, ended.output
    entry = json.loads((runs / "stages" / finished.ids["sft"] / "manifest.json").read_text())
    assert entry["world"]["deterministic"] is True
    assert entry["environment"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert entry["how"]["recipe"]["deterministic"] is True
    before = json.loads((finished.stage("sft") / "manifest.json").read_text())
    assert before["world"]["deterministic"] is False

    again = tmp_path / "again"
    ended = processes.run("reproduce", entry["id"], "--runs", runs, "--run", again)
    assert ended.code == 0, ended.output
    assert " --deterministic --until sft" in ended.output
    assert f"{entry['id']}: equal to the bit" in ended.output
