"""Rows in a JSON Lines file that grows while work goes on, so that an interrupted run continues."""

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Kept:
    """Rows by their `id`. A line that was cut when the last run ended is made again."""

    def __init__(self, file: Path) -> None:
        """Read what is there."""
        self.file = file
        self.rows: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        self._ends_well = text == "" or text.endswith("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.rows[row["id"]] = row
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; they are on their way to the disk when this returns. Threads may call it."""
        new = [dict(row) for row in rows]
        with self._lock:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                lines = [json.dumps(row, ensure_ascii=True) + "\n" for row in new]
                file.write(("" if self._ends_well else "\n") + "".join(lines))
            self._ends_well = True
            self.rows.update((row["id"], row) for row in new)
