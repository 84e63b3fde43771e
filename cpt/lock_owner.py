"""Who holds a lock, as the holder writes it beside the lock for processes of other machines."""

import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """What tells this boot of this machine from all others; containers on it share its kernel's locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Args:
        token: of this holding, like no other.
        machine: see `machine`.
        job: of SLURM, if it runs in one.
        since: seconds since the epoch by the holder's clock; for people.
        beat: how often the holder has shown that it lives.
    """

    token: str
    host: str
    machine: str
    pid: int
    job: str
    since: float
    beat: int = 0

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, where the kernel knows of its end."""
        return self.machine == machine()

    @property
    def is_this_process(self) -> bool:
        """Whether it is who asks."""
        return self.is_here and (self.host, self.pid) == (socket.gethostname(), os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone, as far as this machine can tell."""
        if not self.is_here or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def told(self) -> str:
        """`process 12 on a, SLURM job 7, since 14:03:12 UTC (5 min)`."""
        job = f", SLURM job {self.job}" if self.job else ""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%H:%M:%S UTC")
        return f"process {self.pid} on {self.host}{job}, since {since} ({age(time.time() - self.since)})"


def age(seconds: float) -> str:
    """A time in its largest unit: 40 s, 5 min, 3 h, 2 days."""
    for name, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if name == "days" else 1) * length:
            return f"{int(seconds // length)} {name}"
    return f"{max(0, int(seconds))} s"


def owner_file(lock: Path) -> Path:
    """Where a lock's holder says who it is."""
    return lock.with_name(f"{lock.name}.owner")


def read_owner(lock: Path) -> Owner | None:
    """Who says that it holds a lock, None if nobody does. One that cannot be read is of no machine."""
    try:
        return Owner(**json.loads(owner_file(lock).read_text(encoding="ascii")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError):
        # Half written by a process that was killed in that moment.
        return Owner("", "an unknown machine", "", 0, "", 0.0)
