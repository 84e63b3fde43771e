"""A group of workers ends as its worker did: one message, one exit code, and nobody is left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# What `accelerate launch` does: two workers, a wall of text, exit code 1 whatever happened.
LAUNCHER = """
import os, signal, subprocess, sys
workers = [
    subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, "RANK": str(rank)})
    for rank in range(2)
]
def end(number, frame):
    for worker in workers:
        worker.send_signal(signal.SIGINT)  # as torchrun does when a person interrupts it
        os.waitpid(worker.pid, 0)
    os._exit(1)
signal.signal(signal.SIGTERM, end)
codes = [worker.wait() for worker in workers]
if any(codes):
    print("WALL of the launcher", file=sys.stderr)
    for rank, code in enumerate(codes):
        print(f"  rank      : {rank} (local_rank: {rank})", file=sys.stderr)
        print(f"  exitcode  : {code} (pid: 1)", file=sys.stderr)
    sys.exit(1)
"""
WORKER = """
import os, signal, sys, time
from pathlib import Path
from cpt.errors import *
from launch.group import work_in_group
rank = int(os.environ["RANK"])
def work():
    os.write(2, f"worker {{rank}} lives in {{os.getpid()}}\\n".encode())
    {body}
    return 0
sys.exit(work_in_group(work, Path({file!r}), {verbose}))
"""
# `cpt run`, as far as it matters here.
CHAIN = """
import os, sys
from pathlib import Path
from launch.console import guarded
from launch.group import run_group
def work():
    command = [sys.executable, "-c", {launcher!r}, "-c", {worker!r}]
    run_group(command, {{}}, Path({file!r}), "sft", os.open(os.devnull, os.O_RDONLY), {verbose})
    return 0
sys.exit(guarded(work, False))
"""


def start(folder: Path, body: str, verbose: bool = False) -> "subprocess.Popen[str]":
    file = str(folder / "sft-1.json")
    worker = WORKER.format(body=body, file=file, verbose=verbose)
    chain = CHAIN.format(launcher=LAUNCHER, worker=worker, file=file, verbose=verbose)
    return subprocess.Popen(
        [sys.executable, "-c", chain],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts into the background with SIGINT ignored, and so would these tests be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(folder: Path, body: str, verbose: bool = False) -> tuple[int, str]:
    process = start(folder, body, verbose)
    out, err = process.communicate(timeout=30)
    assert out == ""
    return process.returncode, re.sub(r"worker . lives in \d+\n", "", err)


@pytest.mark.parametrize(
    ("error", "code"), [("StoreError", 1), ("PlanError", 2), ("GateStopped", 3)]
)
def test_a_workers_error_is_the_chains_and_said_once(tmp_path: Path, error: str, code: int) -> None:
    assert run(tmp_path, f"raise {error}('why')") == (code, "cpt: why\n")
    assert not list(tmp_path.iterdir())


def test_the_cause_is_told_and_not_what_it_did_to_the_others(tmp_path: Path) -> None:
    body = "raise RuntimeError('lost') if rank else time.sleep(0.3) or DataError('no rows')"
    assert run(tmp_path, body) == (2, "cpt: no rows\n")


def test_an_error_of_a_hooks_own_kind_keeps_its_code(tmp_path: Path) -> None:
    assert run(tmp_path, "raise type('Odd', (RecipeError,), {})('odd')") == (2, "cpt: odd\n")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    code, said = run(tmp_path, "raise OSError(28, 'No space left on device', 'somewhere')")
    assert code == 1
    assert said.startswith("cpt: the disk is full (somewhere)")
    assert said.count("\n") == 1


def test_a_mistake_of_ours_shows_one_traceback_without_the_wall(tmp_path: Path) -> None:
    code, said = run(tmp_path, "1 / 0")
    assert code == 1
    assert said.count("Traceback") == 1
    assert "failed: ZeroDivisionError: division by zero" in said
    assert "WALL" not in said


def test_a_killed_worker_is_named_by_its_signal(tmp_path: Path) -> None:
    code, said = run(tmp_path, "os.kill(os.getpid(), 9)")
    assert code == 1
    assert "killed by SIGKILL, which the system does when memory runs out" in said
    assert "WALL" not in said
    assert "WALL" in (tmp_path / "sft-1.log").read_text()


@pytest.mark.parametrize("verbose", [False, True])
def test_a_killed_worker_is_the_cause_of_what_its_peers_say(tmp_path: Path, verbose: bool) -> None:
    """They notice at once that it is gone, and leave their notes before the launcher looks."""
    lost = "(_ for _ in ()).throw(RuntimeError('Connection closed by peer'))"
    body = f"os.kill(os.getpid(), 9) if rank else time.sleep(0.2) or next({lost})"
    code, said = run(tmp_path, body, verbose)
    assert code == 1
    last = said.splitlines()[-1]
    assert "killed by SIGKILL, which the system does when memory runs out" in last
    assert f"the launcher's words are in {tmp_path / 'sft-1.log'}" in last
    assert "WALL" in (tmp_path / "sft-1.log").read_text()
    if not verbose:
        assert said == f"{last}\n"


def test_a_worker_that_told_why_and_then_aborted_is_heard(tmp_path: Path) -> None:
    """As gloo's threads now and then make it, when a process ends with an error."""
    body = "import atexit; atexit.register(os.abort); 1 / 0"
    code, said = run(tmp_path, body)
    assert code == 1
    assert "failed: ZeroDivisionError: division by zero" in said


def test_a_clear_message_goes_before_a_kill(tmp_path: Path) -> None:
    body = "os.kill(os.getpid(), 9) if rank else None\n    raise DataError('no rows')"
    assert run(tmp_path, body) == (2, "cpt: no rows\n")


def test_verbose_shows_what_the_launcher_says(tmp_path: Path) -> None:
    code, said = run(tmp_path, "raise StoreError('why')", verbose=True)
    assert code == 1
    assert "WALL" in said
    assert said.endswith("cpt: why\n")


def test_what_workers_say_is_seen_while_they_work(tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(60)")
    pids = pids_of(process)
    assert all(alive(pid) for pid in pids)
    end(process, pids, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_the_chain_ends_with_4_and_leaves_no_worker(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, "time.sleep(60)")
    said = end(process, pids_of(process), number)
    assert process.returncode == 4
    assert said.endswith("the same command continues\n")
    assert said.count("cpt: ") == 1
    assert "Traceback" not in said


def test_what_the_launcher_said_is_kept_without_secrets_however_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-the-hub")
    monkeypatch.setattr(
        f"{__name__}.LAUNCHER",
        "import os, sys; print(os.environ['HF_TOKEN'], file=sys.stderr, flush=True)\n" + LAUNCHER,
    )
    process = start(tmp_path, "time.sleep(60)")
    end(process, pids_of(process), signal.SIGINT)
    assert process.returncode == 4
    text = (tmp_path / "sft-1.log").read_text()
    assert "[redacted:HF_TOKEN]" in text
    assert "canary" not in text


# A worker that trains: it looks at the end of each step whether it was told to end.
TRAINS = (
    "from stages.stopping import heeding, REQUEST; held = heeding(); held.__enter__(); "
    "os.write(2, b'ready\\n')"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_that_train_are_told_and_leave_by_themselves(
    tmp_path: Path, number: signal.Signals
) -> None:
    kept = tmp_path / "kept-"
    step = "while not REQUEST.is_made: time.sleep(0.01)"
    # The launcher ends the others when one has left: each waits for what the other keeps, as a save does.
    both = f"while len(list(Path({str(tmp_path)!r}).glob('kept-*'))) < 2: time.sleep(0.01)"
    body = f"{TRAINS}\n    {step}\n    Path({str(kept)!r} + str(rank)).touch()\n    {both}\n    sys.exit(4)"
    process = start(tmp_path, body)
    pids = ready_pids_of(process)
    launcher = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(launcher), signal.SIGUSR1)  # as a signal to all processes of a job would
    said = end(process, pids, number)
    assert (process.returncode, said) == (4, "cpt: pre-empted; the same command continues\n")
    assert {path.name for path in tmp_path.iterdir()} == {"kept-0", "kept-1"}


def test_told_twice_it_ends_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, f"{TRAINS}\n    time.sleep(60)\n    time.sleep(60)")
    pids = ready_pids_of(process)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    assert all(alive(pid) for pid in pids)
    end(process, pids, signal.SIGTERM)
    assert process.returncode == 4


def test_when_the_grace_is_over_it_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPT_GRACE", "0.5")
    process = start(tmp_path, f"{TRAINS}\n    time.sleep(60)\n    time.sleep(60)")
    began = time.monotonic()
    said = end(process, ready_pids_of(process), signal.SIGUSR1)
    assert 0.5 <= time.monotonic() - began < 10
    assert (process.returncode, said) == (4, "cpt: pre-empted; the same command continues\n")
    assert not list(tmp_path.iterdir())


def test_what_went_wrong_meanwhile_is_told(tmp_path: Path) -> None:
    step = "while not REQUEST.is_made: time.sleep(0.01)"
    process = start(tmp_path, f"{TRAINS}\n    {step}\n    raise StoreError('why')")
    said = end(process, ready_pids_of(process), signal.SIGUSR1)
    assert (process.returncode, said) == (1, "cpt: why\n")


def test_a_worker_told_by_itself_ends_the_run_so_that_it_continues(tmp_path: Path) -> None:
    body = "rank or time.sleep(0.2) or os.kill(os.getpid(), signal.SIGUSR1)"
    assert run(tmp_path, body) == (4, "cpt: pre-empted; the same command continues\n")


@pytest.mark.parametrize("text", ["soon", "", "-1", "nan", "1e300"])
def test_a_grace_that_is_no_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CPT_GRACE", text)
    assert run(tmp_path, "pass") == (2, f"cpt: $CPT_GRACE: {text!r} is no number of seconds\n")


def test_workers_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(60)")
    pids = pids_of(process)
    launcher = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(launcher), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 1
    wait_until_gone(pids)


def ready_pids_of(process: Any) -> list[int]:
    """Of workers that heed what they are told from now on."""
    lines = [process.stderr.readline() for _ in range(4)]
    return [int(line.split()[-1]) for line in lines if line.startswith("worker")]


def pids_of(process: Any) -> list[int]:
    lines = [process.stderr.readline() for _ in range(2)]
    return [int(line.split()[-1]) for line in lines]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until, "a worker was left behind"
        time.sleep(0.01)


def end(process: Any, pids: list[int], number: signal.Signals) -> str:
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    wait_until_gone(pids)
    return str(said)
