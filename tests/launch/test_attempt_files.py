"""Attempts on one result are counted while other chains work in the same store."""

from pathlib import Path
from typing import Any

import pytest

from launch.attempt_files import FOLDER, begin, earlier


def test_a_gate_that_another_chain_publishes_meanwhile_does_not_end_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("repair-1", "repair-2"):
        partial = tmp_path / f"{name}.partial"
        begin(partial, "sft-1")
        (partial / FOLDER / "a.json").write_text("{}")
    own = tmp_path / "repair-9.partial"
    assert earlier(tmp_path, "sft-1", own) == {"repair-1": 1, "repair-2": 1}
    read_text = Path.read_text

    def late(file: Path, *given: Any, **named: Any) -> str:
        partial = file.parent.parent
        if partial.name == "repair-1.partial":
            partial.rename(tmp_path / "repair-1")
        return read_text(file, *given, **named)

    monkeypatch.setattr(Path, "read_text", late)
    assert earlier(tmp_path, "sft-1", own) == {"repair-2": 1}
