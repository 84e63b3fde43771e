"""What a person sees of a run that goes well: our own lines; with -v what the libraries say as well."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SIGNED

pytestmark = pytest.mark.chain


def test_a_run_shows_our_lines_only(finished: Any) -> None:
    """Base, four kinds of stages, their probes and reports."""
    assert "grpo: step 4/4" in finished.output
    assert finished.foreign == []


def test_with_v_the_libraries_are_heard(finished: Any, processes: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    ended = processes.smoke(runs, "--until", "sft", "-v", code=SIGNED)
    assert ended.code == 0, ended.output
    foreign = type(finished)(finished.runs, ended.output).foreign
    assert any("Running generate_until requests" in line for line in foreign), ended.output
    finished.assert_equal(runs, "sft")
