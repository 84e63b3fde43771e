"""log.txt: what a stage said and was warned of, each line with its time in UTC.

Of several processes each writes its own: log.txt, log-1.txt, ...
"""

import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cpt.redact import redact

#: Of interest to the authors of libraries only.
_NOT_FOR_PEOPLE = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def log_file(stage: Path, rank: int) -> Path:
    """A file for each rank: appending from several machines to one loses lines on shared file systems."""
    return stage / (f"log-{rank}.txt" if rank else "log.txt")


class StageLog:
    """The log of one stage on one process; an interrupted stage goes on in the same file.

    Args:
        file: where the lines go; None without one.
        say: shows a line to the person.
        verbose: whether warnings of Python code are shown too, or kept in the file only.
        rank: of this process; each but the first puts it before its lines.
    """

    def __init__(
        self, file: Path | None, say: Callable[[str], None], verbose: bool, rank: int = 0
    ) -> None:
        self._rank = f"[rank {rank}] " if rank else ""
        self.path, self._say, self.verbose = file, say, verbose
        self._file: TextIO | None = None
        self._open = ExitStack()

    def __enter__(self) -> "StageLog":
        if self.path is not None:
            # Buffered by lines, and still open when publishing renames the folder.
            # Of processes that were started apart, none has made the folder for this one.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a", encoding="utf-8", buffering=1)
            self._file = self._open.enter_context(file)
            self._listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            with suppress(OSError):  # a full disk, say, which is the error that is told already
                self.note(f"ended by {kind.__name__}: {error}")
        self._open.close()
        self._file = None

    def say(self, text: str) -> None:
        """Show a line and keep it."""
        text = redact(text)
        self.note(text)
        self._say(text)

    def note(self, text: str) -> None:
        """Keep a line."""
        if self._file is not None:
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            lines = redact(text).splitlines() or [""]
            self._file.write("".join(f"{time} {self._rank}{line}\n" for line in lines))

    def _listen(self) -> None:
        """Keep Python's warnings, each place once, whether or not they are shown."""
        shown = warnings.showwarning
        self._open.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        for category in _NOT_FOR_PEOPLE:
            warnings.simplefilter("ignore", category)

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any
        ) -> None:
            self.note(f"warning: {message} ({category.__name__}, {Path(filename).name}:{lineno})")
            if self.verbose:
                shown(message, category, filename, lineno, *more)

        warnings.showwarning = show  # type: ignore[assignment]
