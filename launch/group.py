"""A group of processes for one stage, and what its workers leave behind: how each of them ended.

`accelerate launch` turns every failure into exit code 1 and a wall of text about itself. So a worker that
fails leaves a note beside its job file, which the chain reads, and what the launcher says goes into a log.
The workers speak through their standard output, which is the chain's standard error: the launcher hands on
no other open file.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from cpt import errors
from cpt.errors import CptError
from cpt.ids import atomic_write
from cpt.redact import RedactingStream, redact, redact_tree
from launch.console import place_problem, print_traceback, storage_problem
from launch.hang import forget_signs, give_signs_in_group, wait
from launch.signals import deaf, forget_workers, heed_in_group, passing_on
from stages.stopping import PREEMPTED, REQUEST

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG in linux/prctl.h
_ASKED_TO_END = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_SECONDS_TO_DRAIN = 5.0  # a process that outlives its launcher may hold the pipe open


def run_group(
    command: Sequence[str],
    variables: Mapping[str, str],
    file: Path,
    name: str,
    lock: int,
    verbose: bool = False,
    timeout: float = 0.0,
) -> None:
    """Start a launcher, wait for it, and fail as its workers did.

    Args:
        command: the launcher's, whose workers run `work_in_group`.
        variables: environment, on top of this process's.
        file: the job file.
        name: of the stage.
        lock: descriptor of the stage's lock, which the launcher shares: should this process be killed, the
            stage stays locked for as long as its workers live.
        verbose: show what the launcher says.
        timeout: most seconds in which no worker gives a sign of life; 0: for ever.

    Raises:
        CptError: of the kind and with the message of the worker that failed first.
        SystemExit: 4, when this process or the launcher was told to end.
    """
    _remove_notes(file)
    forget_workers(file)
    forget_signs(file)
    file.with_suffix(".stacks.txt").unlink(missing_ok=True)
    log = file.with_suffix(".log")
    with log.open("wb") as said:
        group = subprocess.Popen(
            deaf(command),
            env={**os.environ, **variables},
            stdout=2,
            stderr=subprocess.PIPE if verbose else said,
            pass_fds=[lock],
        )
        shown = _shown_too(group, said) if verbose else None
        try:
            with passing_on(file):
                code = wait(group, file, name, timeout)
        except BaseException:  # pre-empted: the launcher ends its workers when it is asked to
            group.terminate()
            group.wait()
            _remove_notes(file)
            forget_workers(file)
            forget_signs(file)
            if shown is None:  # else they never came there
                _without_secrets(log)
            raise
        finally:
            if shown:
                shown.join(_SECONDS_TO_DRAIN)
    forget_workers(file)
    forget_signs(file)
    notes = [json.loads(note.read_text()) for note in _notes(file)]
    _remove_notes(file)
    if REQUEST.is_made and not any(_is_clear(note) for note in notes):
        log.unlink()
        raise SystemExit(PREEMPTED)
    if code == 0:
        log.unlink()
        return
    _without_secrets(log)
    raise _failure(notes, name, code, log)


def _without_secrets(log: Path) -> None:
    """What the launcher said, as it stays for people; in place, since a full disk takes no second file."""
    log.write_text(redact(log.read_text(errors="replace")))


def _shown_too(group: "subprocess.Popen[bytes]", said: IO[bytes]) -> threading.Thread:
    """Copy what the launcher says to this process's standard error as well as into the log."""
    assert group.stderr is not None
    pipe = group.stderr

    def show(text: bytes) -> None:
        text = redact(text.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        os.write(2, text)
        with contextlib.suppress(ValueError):  # closed: a process outlived its launcher
            said.write(text)
            said.flush()

    def copy() -> None:
        rest = b""
        while text := os.read(pipe.fileno(), 65536):
            # Whole lines, and a bar's carriage returns: a secret may lie across two reads.
            end = max((rest + text).rfind(b"\n"), (rest + text).rfind(b"\r")) + 1
            whole, rest = (rest + text)[:end], (rest + text)[end:]
            if whole:
                show(whole)
        if rest:
            show(rest)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _killed(text: str, notes: list[dict[str, Any]]) -> int | None:
    """The signal that ended a worker which left no note, by the launcher's words; not one that asks to end.

    Its peers notice that it is gone, and their notes say so: consequences, however early they come.
    """
    told = {note["rank"] for note in notes}
    for rank, number in re.findall(r"rank +: (\d+).*\n +exitcode +: -(\d+)", text):
        if int(rank) not in told and int(number) not in _ASKED_TO_END:
            return int(number)
    return None


def _is_clear(note: Mapping[str, Any]) -> bool:
    """Whether a worker said what went wrong; what the end of another one did to it is a traceback."""
    return note["traceback"] is None and note["kind"] != SystemExit.__name__


def _failure(notes: list[dict[str, Any]], name: str, code: int, log: Path) -> CptError | SystemExit:
    """What the parent raises: clear messages, then kills, then tracebacks; of each the first failure."""
    text = log.read_text(errors="replace")
    if any(note["kind"] == SystemExit.__name__ for note in notes):  # by a person, one by one
        log.unlink()
        return SystemExit(PREEMPTED)
    number = _killed(text, notes)
    first = min(notes, key=lambda note: (note["traceback"] is not None, note["time"]), default=None)
    if first and (number is None or first["traceback"] is None):
        if first["traceback"] is None:
            log.unlink()
            kind: type[CptError] = getattr(errors, first["kind"])
            return kind(first["message"])
        sys.stderr.write(first["traceback"])
        log.unlink()
        return CptError(
            f"{name}: process {first['rank']} failed: {first['message']}; what is finished is kept"
        )
    why = f"its processes ended with code {code}"
    if code < 0:
        why = f"its launcher was killed by {signal.Signals(-code).name}"
    if code == -signal.SIGTERM or re.search(r"got signal: (15|2|1)\b", text):
        return SystemExit(PREEMPTED)
    if number is not None:
        why = f"a process was killed by {signal.Signals(number).name}"
        why += ", which the system does when memory runs out" if number == signal.SIGKILL else ""
    return CptError(
        f"{name}: {why}; the launcher's words are in {log}; what is finished is kept, and the same "
        f"command continues"
    )


def work_in_group(work: Callable[[], int], file: Path, verbose: bool) -> int:
    """Run `work` in a worker of `run_group`, and leave a note if it fails.

    It ends with its launcher, however that ends; see `heed_in_group` for what it is told.
    """
    _end_with_parent()
    heed_in_group(partial(_leave_note, file), file)
    give_signs_in_group(file)
    if not verbose:
        os.dup2(1, 2)
    try:
        with contextlib.redirect_stderr(RedactingStream(sys.stderr)):
            return work()
    except SystemExit as stop:
        if stop.code != PREEMPTED:
            raise
        _leave_note(file, SystemExit.__name__, "told to end")
        return PREEMPTED
    except CptError as error:
        if verbose:
            print_traceback()
        kind = next(base for base in type(error).__mro__ if base.__module__ == errors.__name__)
        _leave_note(file, kind.__name__, str(error))
        return error.exit_code
    except Exception as error:
        message = storage_problem(error) or place_problem(error)
        _leave_note(
            file,
            "CptError",
            message or f"{type(error).__name__}: {error}".splitlines()[0],
            None if message else traceback.format_exc(),
        )
        return 1


def _leave_note(file: Path, kind: str, message: str, trace: str | None = None) -> None:
    rank = int(os.environ.get("RANK", "0"))
    note = {
        "rank": rank,
        "kind": kind,
        "message": message,
        "traceback": trace,
        "time": time.time(),
    }
    try:
        atomic_write(file.with_suffix(f".ended-{rank}.json"), json.dumps(redact_tree(note)))
    except OSError:  # a full disk; then this is the only place for it
        print(f"cpt: {redact(message)}", file=sys.stderr)


def _notes(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{file.stem}.ended-*.json"))


def _remove_notes(file: Path) -> None:
    for note in [*_notes(file), *file.parent.glob(f".{file.stem}.ended-*")]:
        note.unlink(missing_ok=True)


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux)."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
