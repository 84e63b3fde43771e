"""A chain on two processes of which one is killed, or the launcher, or the chain, or all, ends as if not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.signals import workers
from tests.bench.kills import Kill, keep
from tests.conftest import without_times
from tests.test_groups import VARIABLES
from tests.test_groups import workers as processes_of
from tests.test_kill import ORDER, ROOT, SMOKE, num_files, state, wait_for, weights_of

pytestmark = pytest.mark.chain

NUM_KILLS = int(os.environ.get("CPT_TEST_GROUP_KILLS", "3"))
TARGETS = ("rank 1", "launcher", "chain", "group", "rank 0")
#: The whole chain where many are killed; each stage costs a launch.
LAST = "grpo" if len(TARGETS) < NUM_KILLS else "pretrain"


def start(runs: Path, log: Path) -> "subprocess.Popen[bytes]":
    """In a group of its own, so that all of it can be killed."""
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "run",
        str(SMOKE / "chain.yaml"),
        "--until",
        LAST,
    ]
    command += ["--launch", "ddp", "num_processes=2", "--runs", str(runs)]
    with log.open("ab") as said:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **VARIABLES},
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )


def job_of(runs: Path) -> dict[int, int]:
    """Rank -> process of whatever stage is under way."""
    return next((found for f in (runs / "jobs").glob("*.json") if (found := workers(f))), {})


def kill(process: Any, runs: Path, target: str) -> bool:
    """SIGKILL to what it names. Returns: whether that was there."""
    if target in ("chain", "group"):
        (os.killpg if target == "group" else os.kill)(process.pid, signal.SIGKILL)
        return True
    ranks = job_of(runs)
    rank = 1 if target == "rank 1" else 0
    if rank not in ranks:
        return False
    try:
        pid = ranks[rank] if target.startswith("rank") else parent_of(ranks[rank])
        os.kill(pid, signal.SIGKILL)
    except (OSError, IndexError):  # it ended meanwhile
        return False
    return True


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until_gone(runs: Path) -> None:
    """The workers of a chain that was killed finish their stage; no other process outlives its launcher."""
    until = time.monotonic() + 300
    while processes_of(runs):
        assert time.monotonic() < until, "a process was left behind"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain on two processes in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = finished.copy(folder / "runs", until="base")
    code = start(runs, folder / "log").wait(900)
    assert code == 0, (folder / "log").read_text()
    return Path(runs)


def test_whatever_is_killed_the_same_command_ends_with_the_same_weights(
    finished: Any, undisturbed: Path, tmp_path: Path
) -> None:
    dice = random.Random(int(os.environ.get("CPT_TEST_SEED", "17")))
    names = ORDER[1 : ORDER.index(LAST) + 1]
    runs, log, kills = (
        finished.copy(tmp_path / "runs", until="base"),
        tmp_path / "log",
        list[Kill](),
    )
    published = weights_of(runs)
    while len(kills) < NUM_KILLS:
        target = TARGETS[len(kills) % len(TARGETS)]
        name = names[len(kills) * len(names) // NUM_KILLS]
        partial, done = (runs / "stages" / f"{finished.ids[name]}{end}" for end in (".partial", ""))
        process = start(runs, log)
        wait_for(process, lambda p=partial, d=done: p.exists() or d.exists(), 600)
        goal = num_files(runs) + dice.randint(0, 3 + 60 // NUM_KILLS)
        wait_for(process, lambda r=runs, g=goal: num_files(r) >= g, 600)
        if target not in ("chain", "group"):  # those are there from the start
            wait_for(process, lambda r=runs: job_of(r), 600)
        time.sleep(dice.choice([0.0, 0.0, 0.01, 0.05, 0.2, 0.5]))
        place = state(runs, finished.ids)
        was_there = process.poll() is None and kill(process, runs, target)
        code = process.wait(300)
        wait_until_gone(runs)
        now = weights_of(runs)
        assert published.items() <= now.items(), "what was finished is not what it was"
        published = now
        if was_there:
            if target in ("chain", "group"):
                assert code == -signal.SIGKILL
            elif code != 0:  # it was not over already, all but its end
                assert code == 1, log.read_text()
                assert "killed by SIGKILL" in log.read_text().splitlines()[-1]
            kills.append(Kill(2, target, place))
        if code == 0:
            assert_undisturbed(runs, undisturbed, finished, names)
            runs = finished.copy(
                tmp_path / f"runs-{len(kills)}-{time.monotonic_ns()}", until="base"
            )
            published = weights_of(runs)
    print(*kills, sep="\n")  # shown with -s, and when it fails
    assert start(runs, log).wait(900) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert_undisturbed(runs, undisturbed, finished, names)
    keep(kills)


def assert_undisturbed(runs: Path, undisturbed: Path, finished: Any, names: Any) -> None:
    """Weights, exemplars, curves and probes are those of the chain in one go; nothing is left over."""
    for name in names:
        own, other = (folder / "stages" / finished.ids[name] for folder in (runs, undisturbed))
        assert weights_of(runs)[own.name] == weights_of(undisturbed)[own.name], name
        for file in ("exemplars.jsonl", "checkpoint/config.json"):
            if (other / file).exists():
                assert (own / file).read_bytes() == (other / file).read_bytes(), (name, file)
        assert without_times(own) == without_times(other), name
    assert {path.name for path in (runs / "stages").iterdir()} == {
        finished.ids[name] for name in ("base", *names)
    }
