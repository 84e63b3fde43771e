"""What a stage leaves beside its weights."""

import json
from datetime import UTC, datetime
from pathlib import Path

from stages.publish import write_lines


def test_lines_hold_what_json_has_no_word_for(tmp_path: Path) -> None:
    day = datetime(2024, 2, 3, tzinfo=UTC)
    rows = [{"text": "caf\u00e9 \ud83d", "day": day, "raw": b"x"}, {"text": "\u2028"}]
    write_lines(tmp_path / "a.jsonl", rows)
    lines = (tmp_path / "a.jsonl").read_bytes().decode("ascii").splitlines()
    first, second = map(json.loads, lines)
    assert first == {"text": "caf\u00e9 \ud83d", "day": str(day), "raw": "b'x'"}
    assert second == rows[1]
