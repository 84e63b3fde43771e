"""Where a training stands, shown in passing on a terminal and kept in the log."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.log import StageLog
from stages.progress import progress_callback


@pytest.mark.parametrize("is_terminal", [True, False])
def test_every_tenth_of_the_way_is_kept_and_said_unless_a_live_line_shows_it(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    said: list[str] = []
    with StageLog(tmp_path / "log.txt", said.append, verbose=False) as log:
        callback = progress_callback("sft", log, is_main=True)
        state = SimpleNamespace(global_step=0, max_steps=40)
        callback.on_train_begin(None, state, None)
        for state.global_step in range(1, 41):
            callback.on_step_end(None, state, None)
    kept = [line.split()[3] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert kept == ["1/40", *(f"{step}/40" for step in range(4, 41, 4))]
    assert len(said) == (0 if is_terminal else len(kept))
