"""What a result file says before its probes, whose items are megabytes."""

import json
from pathlib import Path
from typing import Any

#: Characters that hold every head.
_LENGTH = 4000


def head_of(file: Path) -> dict[str, Any]:
    """A result's version, suite, stage, seconds and packages; of a file laid out otherwise, all of it.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with file.open(encoding="utf-8") as opened:
        head, found, _ = opened.read(_LENGTH).partition(', "probes": ')
    told: dict[str, Any] = json.loads(head + "}" if found else file.read_text("utf-8"))
    return told
