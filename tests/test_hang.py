"""A stage that stands still ends with a message that names who the others wait for, and where."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.backend import ROOT
from tests.planted import planted
from tests.test_groups import workers

pytestmark = pytest.mark.chain

SMOKE = ROOT / "recipes" / "smoke"
SLEEPS = "before_each_step(lambda self, step: time.sleep({} * (step == 3 and rank in (1, -1))))"


def run(runs: Path, variables: dict[str, str], *more: str) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "run",
        str(SMOKE / "chain.yaml"),
        "--runs",
        str(runs),
    ]
    done = subprocess.run(
        [*command, *more, "--until", "pretrain"],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    return done.returncode, done.stdout


def test_the_process_that_the_others_wait_for_is_named(finished: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="base")
    on_two = ("--launch", "ddp", "num_processes=2")
    began = time.monotonic()
    variables = planted(tmp_path / "planted", SLEEPS.format(3600))
    code, said = run(runs, variables, *on_two, "timeout=0.2")
    assert code == 1, said
    assert time.monotonic() - began < 300
    last = said.splitlines()[-1]
    assert re.match(
        r"cpt: pretrain: process 1 of 2 stands still for \d+ s in step 3 before its loss, and the others "
        r"wait in step 3 at its loss; what each was doing is in ",
        last,
    ), said
    assert last.endswith("`timeout` of the chain says how many minutes are too long")
    assert "Traceback" not in said
    stacks = runs / "jobs" / f"{finished.ids['pretrain']}.stacks.txt"
    assert str(stacks) in last
    told = stacks.read_text()
    assert re.search(r"process 0 \(\d+\):\n(.*\n)+\nprocess 1 \(\d+\):\n", told)
    assert "sitecustomize.py" in told.partition("process 1 ")[2]
    assert workers(runs) == []
    again = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    code, said = run(runs, again, *on_two)
    assert code == 0, said
    assert "pretrain: continuing at step 2 of 6" in said
    assert list((runs / "jobs").iterdir()) == []


def test_a_process_alone_is_watched_too(finished: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="base")
    variables = planted(tmp_path / "planted", SLEEPS.format(3600), alone=True)
    code, said = run(runs, variables, "timeout=0.1")
    assert code == 1, said
    assert re.search(r"cpt: pretrain: it stands still for \d+ s in step 3 before its loss; ", said)
    assert "sitecustomize.py" in (runs / "jobs" / "pretrain.stacks.txt").read_text()


def test_slow_is_not_hung(finished: Any, tmp_path: Path) -> None:
    """Steps that each take less than the time-out, and together more."""
    runs = finished.copy(tmp_path / "runs", until="base")
    code = "before_each_step(lambda self, step: time.sleep(4))"
    variables = planted(tmp_path / "planted", code, alone=True)
    assert run(runs, variables, "timeout=0.2")[0] == 0
    finished.assert_equal(runs, "pretrain")
