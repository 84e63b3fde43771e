"""What a stage measures of itself while it runs: seconds of its parts, and checks.

Checks lie in `checks.json` until the manifest takes them, so that an interruption loses none.
"""

import json
import time
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.redact import redact_tree

FILE = "checks.json"


class Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, part: str) -> None:
        """Give the time since the last lap to a part."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 2)
        self._last = now

    def move(self, seconds: float, source: str, target: str) -> None:
        """Give seconds of one part to another."""
        if seconds:
            self.seconds[source] = round(self.seconds[source] - seconds, 2)
            self.seconds[target] = round(self.seconds.get(target, 0.0) + seconds, 2)


def read_checks(folder: Path) -> dict[str, Any]:
    """Name -> value of every check so far."""
    file = folder / FILE
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def note_check(folder: Path, name: str, value: Any) -> None:
    """Keep the value of a check."""
    ids.atomic_write(folder / FILE, json.dumps({**read_checks(folder), name: redact_tree(value)}))
