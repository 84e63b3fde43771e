"""A chain whose stages run in groups of two real processes: how it fails, is pre-empted, and ends.

A launch costs 12 to 20 seconds, so one chain goes through it all.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch.backend import ROOT
from tests.conftest import Ended

pytestmark = pytest.mark.chain

SMOKE = ROOT / "recipes" / "smoke"
SUITE = ROOT / "configs" / "probes" / "smoke.yaml"
VARIABLES = {"CUDA_VISIBLE_DEVICES": ""}


def start(runs: Path, until: str) -> "subprocess.Popen[str]":
    """Cold: the launcher starts its workers from a file."""
    command = [sys.executable, "-m", "launch.cli", "run", str(SMOKE / "chain.yaml")]
    command += ["--until", until, "--launch", "ddp", "num_processes=2", "--runs", str(runs)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **VARIABLES},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(runs: Path) -> list[int]:
    """Processes whose command line names a file of this runs folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(runs).encode() in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@dataclass(frozen=True)
class Group:
    """A chain on two processes, told to end in pretrain, and then run again up to sft."""

    runs: Path
    before: list[int]
    after: list[int]
    interrupted: Ended
    has_checkpoint: bool
    continued: Ended

    def stage(self, stage_id: str) -> Path:
        return self.runs / "stages" / stage_id


@pytest.fixture(scope="module")
def group(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Group:
    runs = finished.copy(tmp_path_factory.mktemp("group") / "runs", until="base")
    partial = runs / "stages" / f"{finished.ids['pretrain']}.partial"
    process = start(runs, "sft")
    until = time.monotonic() + 120
    while not list(partial.glob("trainer/*/COMPLETE")) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    before = workers(runs)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    after, has_checkpoint = workers(runs), bool(list(partial.glob("trainer/*/COMPLETE")))
    again = start(runs, "sft")
    said_again, _ = again.communicate(timeout=240)
    return Group(
        runs,
        before,
        after,
        Ended(process.returncode, said),
        has_checkpoint,
        Ended(again.returncode, said_again),
    )


def test_what_a_worker_says_is_what_the_chain_says(finished: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="base")
    file = runs / "stages" / finished.ids["base"] / "checkpoint" / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    process = start(runs, "pretrain")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.startswith(f"cpt: {file}: is damaged: ")
    assert said.count("\n") == 1, said


def test_sigterm_ends_all_processes(group: Group) -> None:
    assert len(group.before) == 4  # the chain, the launcher, two workers
    assert group.after == []
    assert group.interrupted.code == 4, group.interrupted.output
    assert group.interrupted.output.endswith("cpt: pre-empted; the same command continues\n")
    assert "Traceback" not in group.interrupted.output
    assert group.has_checkpoint


def test_the_same_command_continues_to_its_end(finished: Any, group: Group) -> None:
    said = group.continued.output
    assert group.continued.code == 0, said
    assert re.search(r"pretrain: continuing at step [2-6] of 6", said)
    assert "pretrain: step 1/" not in said
    assert "sft: step 6/6" in said
    assert "Traceback" not in said
    for name in ("pretrain", "sft"):
        stage = group.stage(finished.ids[name])
        entry = json.loads((stage / "manifest.json").read_text())
        assert (entry["world"]["backend"], entry["world"]["size"]) == ("ddp", 2)
        assert entry["num_steps"] == 6
        assert "[rank 1]" not in (stage / "log.txt").read_text()
        told = (stage / "log-1.txt").read_text().splitlines()
        assert told
        assert all(" [rank 1] " in line for line in told)
        own, other = (cells(folder) for folder in (stage, finished.stage(name)))
        assert own.keys() == other.keys()
        for (
            probe,
            cell,
        ) in own.items():  # the weights are those of one process, but for the order of sums
            ids = [[item["id"] for item in of["items"]] for of in (cell, other[probe])]
            assert ids[0] == ids[1]
        assert own["prose"]["value"] == pytest.approx(other["prose"]["value"], abs=0.02)
    report = (group.runs / "chains" / "smoke" / "report.md").read_text()
    assert "sft" in report
    assert "smoke   sft after pretrain" in said
    times, last = said.strip().splitlines()[-2:]
    for part in ("load", "train", "merge", "save", "probe", "other"):
        assert re.search(rf"\b{part} [0-9]", times), times
    assert re.search(r"peak memory \d\.\d+ GiB", times)
    assert "report: " in last
    assert list((group.runs / "jobs").iterdir()) == []


def test_the_documented_line_gives_what_the_chain_gives(
    finished: Any, group: Group, tmp_path: Path
) -> None:
    """From a hub id, two processes, not interrupted: the same weights, bit for bit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(finished.stage("base") / "checkpoint", model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    accelerate = Path(sys.executable).with_name("accelerate")
    output = tmp_path / "pretrain"
    line = "launch --config_file configs/accelerate/ddp.yaml --num_processes 2 -m launch.stage "
    line += f"recipes/smoke/pretrain.yaml parent=someone/tiny output={output} suite={SUITE}"
    readme = " ".join((ROOT / "README.md").read_text().replace("\\\n", " ").split())
    assert f"accelerate {line.partition('recipes')[0]}recipes/" in readme
    done = subprocess.run(
        [str(accelerate), *line.split()],
        cwd=ROOT,
        env={**os.environ, **VARIABLES, "HF_HUB_CACHE": str(tmp_path / "hub")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    chained = group.stage(finished.ids["pretrain"])
    weights = "checkpoint/model.safetensors"
    assert (output / weights).read_bytes() == (chained / weights).read_bytes()
    own, other = (cells(folder) for folder in (output, chained))
    for probe, cell in own.items():
        assert cell["items"] == other[probe]["items"], probe
    entry = json.loads((output / "manifest.json").read_text())
    assert entry["parents"] == {"parent": "someone/tiny"}
    assert (entry["world"]["backend"], entry["world"]["size"]) == ("ddp", 2)


def cells(stage: Path) -> dict[str, Any]:
    (file,) = (stage / "probes").iterdir()
    return dict(json.loads(file.read_text())["probes"])
