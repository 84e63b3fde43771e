"""Two processes, two machines: who waits, whom they are told of, and what of a dead holder is taken over."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from cpt import locks
from cpt.lock_owner import Owner, age, owner_file, read_owner
from cpt.locks import locked

HOLD = """
import sys
from pathlib import Path
from cpt.locks import locked
with locked(Path(sys.argv[1]), "sft", print):
    print("held", flush=True)
    sys.stdin.readline()
"""
#: A holder whose child inherits the lock, as a launcher does.
HOLD_AND_START = """
import subprocess, sys
from pathlib import Path
from cpt.locks import locked
with locked(Path(sys.argv[1]), "sft", print) as descriptor:
    code = "import sys; print(0, flush=True); sys.stdin.readline()"
    child = subprocess.Popen([sys.executable, "-c", code], pass_fds=[descriptor])
    child.wait()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "sft-1"


class Clock:
    """Time that passes only while a process waits for a lock; `each` is called after every pause."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.each: Callable[[float], object] = lambda passed: None

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1e9

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 2000, "waits for ever"
        self.each(self.now - 1000.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(locks, "time", found)
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    begun = []

    def run(lock: Path, code: str = HOLD) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in ("held", "0")
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def plant(lock: Path, beat: int = 0, **changes: object) -> Owner:
    """What a process of another machine left, or writes."""
    found = Owner("abc", "far", "another boot", 12, "77", 1e9, beat)
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner_file(lock).write_text(json.dumps({**asdict(found), **changes}))
    return found


def names(lock: Path) -> list[str]:
    return sorted(path.name for path in lock.parent.iterdir())


def test_a_holder_says_who_it_is_and_leaves_nothing(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with locked(lock, "sft", pytest.fail):
        owner = read_owner(lock)
        assert owner is not None
        assert owner.is_here
        assert not owner.has_ended
        assert owner.told().startswith(f"process {os.getpid()} on {owner.host}, SLURM job 4711, ")
        assert owner.told().endswith(" UTC (0 s)")
    assert not owner_file(lock).exists()


def test_times_are_told_in_their_largest_unit() -> None:
    told = [age(seconds) for seconds in (-5, 0, 59.9, 60, 3599, 3600, 172_799, 172_800)]
    assert told == ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 days"]


def test_who_waits_is_told_of_the_holder_again_and_again(
    lock: Path, start: Callable[..., "subprocess.Popen[str]"], clock: Clock
) -> None:
    """For longer than a silent machine would be waited for: the kernel knows that this one lives."""
    process = start(lock)
    clock.each = lambda passed: process.communicate("\n") if passed > 200 else None
    said: list[str] = []
    with locked(lock, "sft", said.append):
        assert len(said) == 4  # at 0, 60, 120 and 180 seconds
    for text in said:
        assert text.startswith(f"sft is being made by process {process.pid} on ")
        assert text.endswith("waiting for it")


def test_the_lock_of_a_killed_process_is_free_at_once(
    lock: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = start(lock)
    process.kill()
    process.wait()
    assert owner_file(lock).is_file()
    with locked(lock, "sft", pytest.fail):
        owner = read_owner(lock)
        assert owner is not None
        assert owner.pid == os.getpid()


def test_what_a_killed_process_started_still_holds_its_lock(
    lock: Path, start: Callable[..., "subprocess.Popen[str]"], clock: Clock
) -> None:
    process = start(lock, HOLD_AND_START)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    clock.each = lambda passed: process.communicate("\n") if passed > 200 else None
    said: list[str] = []
    with locked(lock, "sft", said.append):
        assert clock.now > 1200
    assert "which has ended; a process that it started still runs" in said[0]


@pytest.mark.parametrize("is_held", [False, True], ids=["granted", "refused"])
def test_a_silent_holder_on_another_machine_is_taken_over(
    lock: Path, start: Callable[..., "subprocess.Popen[str]"], clock: Clock, is_held: bool
) -> None:
    """Refused: a file server that keeps the lock of a dead machine; granted: one that has let it go."""
    if is_held:
        start(lock)
    plant(lock)
    said: list[str] = []
    with locked(lock, "sft", said.append):
        assert 120 <= clock.now - 1000 < 125
        owner = read_owner(lock)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert "process 12 on far, SLURM job 77, since " in said[0]
    assert "(no sign of life for 0 s of 2 min)" in said[0]
    assert "sft: its lock is taken over from process 12 on far" in said[-1]
    assert names(lock) == [lock.name]


def test_a_holder_that_beats_is_never_taken_over(lock: Path, clock: Clock) -> None:
    """Whatever its clock says: only whether the number moves counts."""
    plant(lock)

    def beat(passed: float) -> None:
        plant(lock, int(passed / 100), since=passed % 7)
        if passed > 800:
            owner_file(lock).unlink()

    clock.each = beat
    said: list[str] = []
    with locked(lock, "sft", said.append):
        assert clock.now > 1800
    assert not any("taken over" in text for text in said)


def test_of_many_who_wait_for_a_dead_machine_one_has_the_lock_at_a_time(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(locks, "POLL_SECONDS", (0.01, 0.02))
    plant(lock)
    lock.touch()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with locked(lock, "sft", lambda text: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 8
    assert names(lock) == [lock.name]


def test_a_claim_whose_process_died_does_not_block_for_ever(lock: Path, clock: Clock) -> None:
    plant(lock)
    lock.with_name(f"{lock.name}.claim-abc").touch()
    with locked(lock, "sft", lambda text: None):
        assert clock.now - 1000 >= 240
    assert names(lock) == [lock.name]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}'])
def test_an_owner_that_cannot_be_read_is_waited_for_like_a_silent_one(
    lock: Path, clock: Clock, text: str
) -> None:
    lock.parent.mkdir()
    owner_file(lock).write_text(text)
    with locked(lock, "sft", lambda text: None):
        assert clock.now - 1000 >= 120
    assert names(lock) == [lock.name]


def test_without_flock_the_owner_is_the_lock(
    lock: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    first = ExitStack()
    first.enter_context(locked(lock, "sft", pytest.fail))
    clock.each = lambda passed: first.close() if passed > 100 else None
    said: list[str] = []
    with locked(lock, "sft", said.append):
        assert clock.now > 1100
    assert len(said) == 2
    plant(lock)  # killed, on a machine that has no flock
    clock.each = lambda passed: None
    with locked(lock, "sft", said.append):
        pass
    assert "taken over" in said[-1]


def test_a_holder_shows_that_it_lives(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with locked(lock, "sft", pytest.fail):
        for _ in range(3000):
            owner = read_owner(lock)
            assert owner is not None
            assert owner.pid == os.getpid()  # whole at any moment
            if owner.beat >= 3:
                return
            time.sleep(0.01)
    pytest.fail("it has not beaten three times in half a minute")


def test_a_beat_is_sent_to_the_file_server_at_once(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS would keep it for half a minute: an open file is sent when its kernel finds the time."""
    sent, fsync = list[int](), os.fsync

    def counting(descriptor: int) -> None:
        owner = read_owner(lock)
        sent.append(-1 if owner is None else owner.beat)
        fsync(descriptor)

    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", counting)
    with locked(lock, "sft", pytest.fail):
        for _ in range(3000):
            if len(sent) >= 3:
                break
            time.sleep(0.01)
    assert sent[:3] == [0, 1, 2]


def test_a_holder_that_was_taken_over_ends_itself(
    lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    sent: list[int] = []

    def kill(pid: int, number: int) -> None:
        sent.extend([pid, number])
        ended.set()

    lost = threading.Event()
    monkeypatch.setattr(locks, "LOST", lost)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(os, "kill", kill)
    with locked(lock, "sft", pytest.fail):
        owner_file(lock).unlink()
        plant(lock)
        assert ended.wait(60)
    assert sent == [os.getpid(), signal.SIGTERM]
    assert lost.is_set()  # before the signal, whose handler looks at it
    assert "sft: its lock was taken over by process 12 on far" in capsys.readouterr().err
    found = read_owner(lock)
    assert found is not None
    assert found.token == "abc"  # the other one's stays


def test_a_holder_whose_lock_is_gone_ends_itself(
    lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken over and given back between two beats, it would go on without one."""
    ended, lost = threading.Event(), threading.Event()
    monkeypatch.setattr(locks, "LOST", lost)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.set())
    with locked(lock, "sft", pytest.fail):
        owner_file(lock).unlink()
        assert ended.wait(60)
    assert lost.is_set()
    assert f"sft: its lock {lock} was removed; it ends" in capsys.readouterr().err


def test_what_the_listener_raises_ends_the_wait(
    lock: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    start(lock)

    def refuse(text: str) -> None:
        raise InterruptedError(text)

    with pytest.raises(InterruptedError, match="sft is being made by"), locked(lock, "sft", refuse):
        pass


def test_a_full_disk_leaves_no_owner(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"), locked(lock, "sft", pytest.fail):
            pass
    assert not owner_file(lock).exists()
    with locked(lock, "sft", pytest.fail):
        pass
