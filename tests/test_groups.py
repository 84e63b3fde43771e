"""A chain whose stages run in groups of two real processes: how it fails, and how it is pre-empted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.backend import ROOT

pytestmark = pytest.mark.chain

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"


def start(runs: Path) -> "subprocess.Popen[str]":
    """Cold: the launcher starts its workers from a file."""
    command = [sys.executable, "-m", "launch.cli", "run", str(SMOKE), "probes=null"]
    command += ["--until", "pretrain", "--launch", "ddp", "num_processes=2", "--runs", str(runs)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
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


def test_what_a_worker_says_is_what_the_chain_says(finished: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="base")
    file = runs / "stages" / finished.ids["base"] / "checkpoint" / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    process = start(runs)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.startswith(f"cpt: {file}: is damaged: ")
    assert said.count("\n") == 1, said


def test_sigterm_ends_all_processes_and_the_stage_can_be_continued(
    finished: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs", until="base")
    partial = runs / "stages" / f"{finished.ids['pretrain']}.partial"
    process = start(runs)
    until = time.monotonic() + 120
    while not list(partial.glob("trainer/*/COMPLETE")) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(workers(runs)) == 4  # the chain, the launcher, two workers
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 4, said
    assert said.endswith("cpt: pre-empted; the same command continues\n")
    assert "Traceback" not in said
    assert workers(runs) == []
    assert list(partial.glob("trainer/*/COMPLETE"))
