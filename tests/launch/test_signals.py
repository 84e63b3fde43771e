"""Who is told to end saves the step first, unless another holds its lock by now."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A training that heeds what it is told, as `stages.training` does.
TRAINS = """
import os, signal, sys
from cpt.locks import LOST
from launch.console import guarded
from stages.stopping import REQUEST, heeding
def work():
    with heeding():
        if {lost}:
            LOST.set()
        os.kill(os.getpid(), signal.SIGTERM)
        print("a step, and its checkpoint")
    return 0
sys.exit(guarded(work, False))
"""


@pytest.mark.parametrize("lost", [False, True])
def test_of_a_lost_lock_nothing_more_is_written(lost: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TRAINS.format(lost=lost)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 4, ended.stderr
    assert ended.stdout == ("" if lost else "a step, and its checkpoint\n")
