"""What a person sees while a chain runs, and how errors end it."""

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

from cpt.errors import CptError
from cpt.redact import RedactingStream, redact
from launch.signals import TOLD, listen
from stages.stopping import PREEMPTED


class Console:
    """Lines on stderr with the time since the start."""

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.began = time.monotonic()
        self.open_line = False
        self.speaks = os.environ.get("RANK", "0") == "0"

    def say(self, text: str) -> None:
        """Print one line; of several processes the first one speaks."""
        if not self.speaks:
            return
        seconds = int(time.monotonic() - self.began)
        end = "\n" if self.open_line else ""
        self.open_line = False
        text = redact(text)
        print(f"{end}[{seconds // 60:02d}:{seconds % 60:02d}] {text}", file=sys.stderr, flush=True)

    def progress(self, prefix: str) -> Callable[[str], None]:
        """For work that shows passing lines, which start with a carriage return, and lasting ones."""

        def show(text: str) -> None:
            if not text.startswith("\r"):
                if self.open_line:
                    sys.stderr.write("\r\033[K")
                    self.open_line = False
                self.say(prefix + text)
            elif sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{prefix}{text[1:]}")
                sys.stderr.flush()
                self.open_line = True

        return show


@contextmanager
def silenced(is_so: bool) -> Iterator[None]:
    """Drop what libraries write to stderr; errors are raised all the same."""
    if not is_so:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


def guarded(work: Callable[[], int], verbose: bool) -> int:
    """Run `work` and turn what goes wrong into one clear message and an exit code.

    0 done, 1 failed, 2 bad input, 3 stopped by the gate, 4 pre-empted (run again).
    """
    try:
        listen()
        with redirect_stderr(RedactingStream(sys.stderr)):
            return work()
    except CptError as error:
        if verbose:
            print_traceback()
        if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
            print(f"cpt: {redact(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cpt: interrupted; the same command continues", file=sys.stderr)
        return PREEMPTED
    except SystemExit as stop:
        if stop.code == PREEMPTED:
            print(TOLD, file=sys.stderr)
        return int(stop.code or 0) if not isinstance(stop.code, str) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = storage_problem(error) or place_problem(error)
        if message is None or verbose:
            print_traceback()
        if message is not None:
            print(f"cpt: {redact(message)}", file=sys.stderr)
        return 1


def print_traceback() -> None:
    """Show the traceback of the exception that is being handled, without the secrets in it."""
    sys.stderr.write(redact(traceback.format_exc()))


def storage_problem(error: BaseException) -> str | None:
    """A sentence when the cause is a full disk or a file that may not grow, else None."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        signs = (
            "No space left on device",
            "File too large",
            "Disk quota exceeded",
            "PytorchStreamWriter failed",
        )
        if full or any(sign in text for sign in signs):
            place = getattr(seen, "filename", None)
            where = f" ({place})" if place else ""
            return (
                f"the disk is full{where}: {(text or type(seen).__name__).splitlines()[0]}; "
                f"nothing that was finished is lost; free some space, and the same command continues"
            )
        seen = seen.__cause__ or seen.__context__
    return None


def place_problem(error: BaseException) -> str | None:
    """A sentence when a folder cannot be written or read for want of rights, else None."""
    kinds = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
    if not isinstance(error, OSError) or error.errno not in kinds:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}; cpt needs to write there, or name another folder with --runs"
