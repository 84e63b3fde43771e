"""A stage that stands still is ended with a message, instead of waiting for ever.

A process that hangs keeps the others waiting in a collective, without a word. Here the run that started them
watches their signs of life (`stages.beats`): when for too long none has come, it has every process write down
what it is doing, ends them, and says which one the others wait for. A stage that trains must go on from place
to place; one that loads, tokenises, merges or probes must at least compute.
"""

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpt.errors import CptError
from cpt.ids import atomic_write
from launch.signals import send, workers
from stages.beats import BEATS

#: Share of one core that a process which computes takes at least.
_COMPUTES = 0.01
_SECONDS_TO_DUMP = 2.0


def give_signs_in_group(file: Path) -> None:
    """In a worker: write signs of life and, told by SIGUSR2, what every thread is doing."""
    rank = os.environ.get("RANK", "0")
    BEATS.write_to(file.with_suffix(f".beat-{rank}"))
    if hasattr(signal, "SIGUSR2"):
        stacks = file.with_suffix(f".stacks-{rank}").open("w")  # until the process ends
        faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)


def forget_signs(file: Path) -> None:
    """Remove what workers of an earlier launch left."""
    for kind in ("beat", "stacks"):
        for left in file.parent.glob(f"{file.stem}.{kind}-*"):
            left.unlink(missing_ok=True)


def wait(group: "subprocess.Popen[Any]", file: Path, name: str, seconds: float) -> int:
    """Wait for a group of workers as long as they give signs of life.

    Args:
        group: their launcher.
        file: their job.
        name: of the stage.
        seconds: most of them without any; 0: for ever.

    Returns: the launcher's exit code.
    Raises:
        CptError: they stood still, and are ended.
    """
    if not seconds:
        return group.wait()
    signs, since = read_signs(file), time.monotonic()
    used, asked = _cpu_seconds(group.pid, not signs), since
    while True:
        try:
            return group.wait(min(5.0, seconds / 10))
        except subprocess.TimeoutExpired:
            now, found = time.monotonic(), read_signs(file)
        computed = _cpu_seconds(group.pid, not found)
        computes = computed - used > _COMPUTES * (now - asked)
        used, asked = computed, now
        trains = any(sign["trains"] for sign in found.values())
        if found != signs or (computes and not trains):
            signs, since = found, now
        elif now - since > seconds:
            error = CptError(still(name, signs, now - since, _stacks(file)))
            send(file, signal.SIGKILL)
            raise error


def read_signs(file: Path) -> dict[int, Mapping[str, Any]]:
    """Rank -> its last sign."""
    found = {}
    for beat in file.parent.glob(f"{file.stem}.beat-*"):
        with contextlib.suppress(OSError, ValueError):  # not written yet
            found[int(beat.suffix.rpartition("-")[2])] = json.loads(beat.read_text())
    return dict(sorted(found.items()))


def still(name: str, signs: Mapping[int, Mapping[str, Any]], seconds: float, stacks: Path) -> str:
    """The message: who stands where, and for whom the others wait."""
    for_ = f"for {seconds:.0f} s" if seconds < 120 else f"for {seconds / 60:.0f} minutes"
    fewest = min((sign["count"] for sign in signs.values()), default=0)
    behind = {rank: sign["place"] for rank, sign in signs.items() if sign["count"] == fewest}
    others = [sign["place"] for rank, sign in signs.items() if rank not in behind]
    if not signs:
        what = f"no process has begun {for_}"
    elif others:
        ranks = " and ".join(map(str, behind))
        word, verb = ("process", "stands") if len(behind) == 1 else ("processes", "stand")
        places = " or ".join(dict.fromkeys(others))
        what = (
            f"{word} {ranks} of {len(signs)} {verb} still {for_} in {next(iter(behind.values()))}, and the "
            f"others wait in {places}"
        )
    else:
        places = " or ".join(dict.fromkeys(behind.values()))
        what = f"all {len(signs)} processes stand still {for_} in {places}"
    return (
        f"{name}: {what}; what each was doing is in {stacks}; what is finished is kept, and the same command "
        f"continues; `timeout` of the chain says how many minutes are too long"
    )


def _stacks(file: Path) -> Path:
    """Have every worker write down what it is doing, and put that together."""
    if hasattr(signal, "SIGUSR2"):
        send(file, signal.SIGUSR2)
        time.sleep(_SECONDS_TO_DUMP)
    parts = []
    for rank, pid in sorted(workers(file).items()):
        told = file.with_suffix(f".stacks-{rank}")
        text = told.read_text(errors="replace") if told.is_file() else ""
        parts.append(f"process {rank} ({pid}):\n{text or 'did not answer'}\n")
    stacks = file.with_suffix(".stacks.txt")
    atomic_write(stacks, "\n".join(parts))
    return stacks


def _cpu_seconds(launcher: int, begins: bool) -> float:
    """What the processes below a launcher that live have computed; 0 where nobody tells (no Linux).

    Args:
        launcher: its process.
        begins: there is none below it yet, and it is what computes.
    """
    parents, used = dict[int, int](), dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = int(fields[11]) + int(fields[12])
    total, below = used.get(launcher, 0) if begins else 0, {launcher}
    while below := {pid for pid, parent in parents.items() if parent in below}:
        total += sum(used[pid] for pid in below)
    return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def watched(name: str, seconds: float, folder: Path) -> Iterator[None]:
    """Watch over a stage that trains in this process; a thread ends it where it stands still.

    Args:
        name: of the stage.
        seconds: most of them without a sign of life; 0: for ever.
        folder: where what it was doing is written.
    """
    over = threading.Event()

    def watch() -> None:
        life, since = BEATS.life, time.monotonic()
        while not over.wait(min(5.0, seconds / 10)):
            if BEATS.life != life or not BEATS.trains:
                life, since = BEATS.life, time.monotonic()
            elif time.monotonic() - since > seconds:
                _end(name, time.monotonic() - since, folder / f"{name}.stacks.txt")

    thread = threading.Thread(target=watch, daemon=True)
    if seconds:
        thread.start()
    try:
        yield
    finally:
        over.set()


def _end(name: str, seconds: float, stacks: Path) -> None:
    stacks.parent.mkdir(parents=True, exist_ok=True)
    with stacks.open("w") as file:
        faulthandler.dump_traceback(file, all_threads=True)
    sign = {"count": BEATS.count, "place": BEATS.place}
    text = still(name, {0: sign}, seconds, stacks).replace("all 1 processes stand", "it stands")
    os.write(2, f"cpt: {text}\n".encode())
    os._exit(CptError.exit_code)
