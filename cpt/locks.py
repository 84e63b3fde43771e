"""Locks that tell who holds them and since when, and that outlive neither their process nor its machine.

The kernel's lock (flock) decides between processes of one machine: it ends with the process, however that
ends. It knows little of other machines. A shared file system may keep the lock of a machine that is gone
(NFS), grant one to each machine (Lustre with `localflock`, NFS with `nolock`), or have none. So the holder
writes beside the lock `<lock>.owner`: who it is, and a number that grows with every beat. Who waits for a
process of another machine watches that number by its own clock, never by the other one's, and takes over what
has not beaten for `STALE_SECONDS`. A holder that finds another in its place ends itself.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from cpt.lock_owner import Owner, age, machine, owner_file, read_owner

BEAT_SECONDS = 15.0
#: Without a beat a holder on another machine is taken for dead: eight beats, and NFS shows a change in one.
STALE_SECONDS = 120.0
TELL_SECONDS = 60.0
POLL_SECONDS = (0.05, 1.0)
#: Of a file system without flock.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
#: Set in a process whose lock another one holds now: it must end at once, and write nothing more.
LOST = threading.Event()
_LENGTH = 512  # every beat overwrites the same bytes: a reader sees a whole owner


@contextmanager
def locked(path: Path, label: str, waiting: Callable[[str], None]) -> Iterator[int]:
    """Hold a lock file for this process; a second one waits here.

    Args:
        path: the lock.
        label: what it protects, for people.
        waiting: called with a sentence when another holds it, again every `TELL_SECONDS`, and when a dead
            one is taken over. What it raises ends the wait.

    Yields: the lock's descriptor; a child that inherits it holds the lock too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, owner, owned = _acquired(path, label, waiting)
    beats = _Beats(path, label, owner, owned)
    beats.start()
    try:
        yield descriptor
    finally:
        beats.stop()
        if _is_at(owned, owner_file(path)):  # before the lock: its next holder writes its own
            owner_file(path).unlink(missing_ok=True)
        os.close(owned)
        os.close(descriptor)


def _acquired(path: Path, label: str, waiting: Callable[[str], None]) -> tuple[int, Owner, int]:
    """The lock's descriptor, this process as its owner, and the descriptor of the owner's file."""
    wait, pause = _Wait(path, label, waiting), POLL_SECONDS[0]
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            granted = _flock(descriptor)
            owner = read_owner(path)
            if granted is not False and _is_at(descriptor, path):
                if granted and owner is not None and owner.is_here:
                    # It was killed: the kernel gave its lock back.
                    owner_file(path).unlink(missing_ok=True)
                    owner = None
                if owner is None and (own := _owned(path)):
                    lock, descriptor = descriptor, -1
                    return lock, *own
            is_apart = owner is not None and (not owner.is_here or granted is None)
            if owner and is_apart and wait.is_stale(owner) and wait.take_over(owner):
                continue
            if granted is False or owner is not None:
                wait.tell(owner)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS[1])


def _flock(descriptor: int) -> bool | None:
    """Whether the kernel grants the lock; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _owned(path: Path) -> tuple[Owner, int] | None:
    """Become the owner, unless another has just done so."""
    job = os.environ.get("SLURM_JOB_ID", "")
    owner = Owner(
        uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), job, round(time.time(), 3)
    )
    try:
        descriptor = os.open(owner_file(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    try:
        _write(descriptor, owner)
    except BaseException:  # a full disk, say
        os.close(descriptor)
        owner_file(path).unlink(missing_ok=True)
        raise
    return owner, descriptor


def _write(descriptor: int, owner: Owner) -> None:
    os.pwrite(descriptor, json.dumps(asdict(owner)).ljust(_LENGTH).encode("ascii"), 0)
    # NFS sends what an open file holds when its kernel finds the time; who waits counts the seconds.
    os.fsync(descriptor)


class _Wait:
    """What a process that waits has seen of the holder, and what it has said of it."""

    def __init__(self, path: Path, label: str, waiting: Callable[[str], None]) -> None:
        self.path, self.label, self.waiting = path, label, waiting
        self.seen: tuple[str, int] | None = None
        self.changed = 0.0
        self.told: float | None = None
        self.found_claim = False

    def is_stale(self, owner: Owner) -> bool:
        """Whether the holder has not beaten for as long as this process has watched it."""
        now = time.monotonic()
        if (owner.token, owner.beat) != self.seen:
            self.seen, self.changed = (owner.token, owner.beat), now
        return now - self.changed >= STALE_SECONDS

    def tell(self, owner: Owner | None) -> None:
        """Say whom it waits for, at first and then from time to time."""
        now = time.monotonic()
        if self.told is None and owner is None:  # it has yet to write who it is
            self.told = now - TELL_SECONDS
            return
        if self.told is not None and now - self.told < TELL_SECONDS:
            return
        self.told = now
        holder = owner.told() if owner else "another process"
        if owner and owner.has_ended:
            holder += ", which has ended; a process that it started still runs"
        elif owner and not owner.is_here:
            holder += f" (no sign of life for {age(now - self.changed)} of {age(STALE_SECONDS)})"
        self.waiting(f"{self.label} is being made by {holder}; waiting for it")

    def take_over(self, owner: Owner) -> bool:
        """Remove the lock of a dead holder, unless another waiting process does so now.

        One claims it: whoever comes later finds another owner, or none.
        """
        claim = self.path.with_name(f"{self.path.name}.claim-{owner.token or 'unknown'}")
        try:
            os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            if self.found_claim:  # for as long again: who claimed it is dead as well
                claim.unlink(missing_ok=True)
            self.found_claim, self.changed = not self.found_claim, time.monotonic()
            return False
        try:
            found = read_owner(self.path)
            if found is None or (found.token, found.beat) != (owner.token, owner.beat):
                return False
            self.path.unlink(missing_ok=True)  # first: a new owner is one of the new lock
            owner_file(self.path).unlink(missing_ok=True)
        finally:
            claim.unlink(missing_ok=True)
        self.waiting(
            f"{self.label}: its lock is taken over from {owner.told()}, which gave no sign of life for "
            f"{age(STALE_SECONDS)}"
        )
        return True


class _Beats(threading.Thread):
    """Shows that the holder lives, and ends it when another holds its lock."""

    def __init__(self, path: Path, label: str, owner: Owner, descriptor: int) -> None:
        super().__init__(daemon=True, name=f"lock of {label}")
        self.path, self.label, self.owner, self.descriptor = path, label, owner, descriptor
        self.ended = threading.Event()

    def run(self) -> None:
        """Beat until the lock is given back."""
        num_missed = 0
        while not self.ended.wait(BEAT_SECONDS):
            found = read_owner(self.path)
            is_another = found is not None and found.token and found.token != self.owner.token
            # Taken over and given back since, or removed by a person: whoever comes next gets the lock.
            # Twice in a row, since a file server may not show a file for a moment.
            num_missed = num_missed + 1 if found is None else 0
            if is_another or num_missed == 2:
                self._give_way(found)
                return
            self.owner = replace(self.owner, beat=self.owner.beat + 1)
            with contextlib.suppress(OSError):  # a full disk: what fails for want of it says so
                _write(self.descriptor, self.owner)

    def stop(self) -> None:
        """Beat no more."""
        self.ended.set()
        self.join()

    def _give_way(self, found: Owner | None) -> None:
        """Two must not write one folder, and the other one has begun or may begin.

        Args:
            found: the other one; none where nobody holds the lock now.
        """
        why = (
            f"its lock was taken over by {found.told()}, while this process gave no sign of life for "
            f"{age(STALE_SECONDS)}; it ends, and the same command waits for the other"
            if found
            else f"its lock {self.path} was removed; it ends, and the same command continues"
        )
        print(f"cpt: {self.label}: {why}", file=sys.stderr)
        LOST.set()  # no checkpoint first, as for who is told to end in time
        os.kill(os.getpid(), signal.SIGTERM)
