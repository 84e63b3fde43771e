"""What a run does when it is told to end: SIGTERM and SIGUSR1.

A stage that trains here, or in workers of this process, saves at the end of its step and leaves (see
`stages.stopping`), within a grace of $CPT_GRACE seconds, 120 unless said. Everything else ends at once, and
so does a run that is told twice. Both end with exit code 4: nothing that was finished is lost, and the same
command continues.

Workers are told by SIGUSR1, one by one. Their launcher never is: torch's ends all workers when it is told to
end, and dies of signals that it does not handle (torch/distributed/launcher/api.py, `signals_to_handle`).
So it is started with SIGUSR1 ignored: a signal to all processes of a job does not end it either.
"""

import contextlib
import json
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cpt.errors import RecipeError
from cpt.ids import atomic_write
from cpt.locks import LOST
from stages.stopping import PREEMPTED, REQUEST

GRACE = "CPT_GRACE"
TOLD = "cpt: pre-empted; the same command continues"


def grace() -> float:
    """Seconds from the first signal until a run ends at once.

    Raises:
        RecipeError: $CPT_GRACE is no number of seconds.
    """
    text = os.environ.get(GRACE, "120")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < threading.TIMEOUT_MAX:
        raise RecipeError(f"${GRACE}: {text!r} is no number of seconds")
    return seconds


def listen() -> None:
    """Handle SIGTERM and SIGUSR1 in a process that a person or a scheduler started.

    Raises:
        RecipeError: see `grace`.
    """
    seconds = grace()

    def told(number: int, frame: object) -> None:
        # Of a lost lock the other holder writes the same folder by now.
        if LOST.is_set() or not REQUEST.take():
            raise SystemExit(PREEMPTED)
        timer = threading.Timer(seconds, _end_at_once)
        timer.daemon = True
        timer.start()

    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), told)


#: Ends the processes that train for this one, when the grace is over; none: it trains itself.
_end_workers: Callable[[], bool] | None = None


def _end_at_once() -> None:
    """When the grace is over. What waits for workers goes on where they end."""
    if _end_workers is None or not _end_workers():
        with contextlib.suppress(OSError):
            os.write(2, f"{TOLD}\n".encode())
        os._exit(PREEMPTED)


@contextmanager
def passing_on(file: Path) -> Iterator[None]:
    """While workers of a job train for this process, they are told what it is told."""
    global _end_workers
    stop = getattr(signal, "SIGUSR1", signal.SIGTERM)
    REQUEST.pass_on = lambda: send(file, stop)
    _end_workers = lambda: send(file, signal.SIGKILL)  # noqa: E731 - the other one of a pair
    try:
        yield
    finally:
        REQUEST.pass_on = _end_workers = None


def heed_in_group(leave_note: Callable[[str, str], None], file: Path) -> None:
    """Handle signals in a worker, and say where it lives.

    SIGTERM and SIGINT come from the launcher, when another worker has failed: it ends at once, since it may
    wait for the other one and would not hear anything else. SIGUSR1 comes from the chain.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)

    def told(number: int, frame: object) -> None:
        if REQUEST.is_made or REQUEST.take():
            return  # the chain counts, and its grace is this one's
        leave_note(SystemExit.__name__, "told to end")
        sys.stderr.flush()
        os._exit(PREEMPTED)

    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, told)
    place = {"pid": os.getpid(), "host": socket.gethostname()}
    atomic_write(_place(file, os.environ.get("RANK", "0")), json.dumps(place))


def deaf(command: Sequence[str]) -> list[str]:
    """A launcher's command, with SIGUSR1 ignored: a signal to all processes of a job leaves it alone.

    By a shell, not between fork and exec of this process, whose threads hold locks that nobody would release.
    """
    return ["/bin/sh", "-c", "trap '' USR1; exec \"$@\"", "sh", *command]


def workers(file: Path) -> dict[int, int]:
    """Rank -> process of the workers of a job that live on this machine."""
    found = {}
    for place in file.parent.glob(f"{file.stem}.worker-*.json"):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(place.read_text())
            if told["host"] == socket.gethostname() and _is_ours(told["pid"], file):
                found[int(place.stem.rpartition("-")[2])] = int(told["pid"])
    return found


def forget_workers(file: Path) -> None:
    """Remove what workers of an earlier launch left."""
    for name in (f"{file.stem}.worker-*", f".{file.stem}.worker-*"):
        for place in file.parent.glob(name):
            place.unlink(missing_ok=True)


def _place(file: Path, rank: str) -> Path:
    return file.with_suffix(f".worker-{rank}.json")


def send(file: Path, number: int) -> bool:
    """Signal every worker of a job on this machine. Returns: whether there is one."""
    told = False
    for pid in workers(file).values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            told = True
    return told


def _is_ours(pid: int, file: Path) -> bool:
    """Whether a process works on this job; its number may be another one's by now."""
    line = Path(f"/proc/{pid}/cmdline")
    if not line.parent.parent.is_dir():  # no Linux
        return True
    with contextlib.suppress(OSError):
        return os.fsencode(file.name) in line.read_bytes()
    return False
