"""log.txt has what a stage said and was warned of."""

import re
import warnings
from pathlib import Path

import pytest

from stages.log import StageLog, log_file
from tests.tiny_stages import Interrupted, TinyStages

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "


def lines(file: Path) -> list[str]:
    """Without the times."""
    text = file.read_text().splitlines()
    assert all(re.match(STAMP, line) for line in text)
    return [re.sub(STAMP, "", line) for line in text]


def test_what_is_said_is_shown_and_kept(tmp_path: Path) -> None:
    shown: list[str] = []
    with StageLog(tmp_path / "log.txt", shown.append, verbose=False) as log:
        log.say("sft: one\ntwo")
        log.note("kept")
        assert lines(tmp_path / "log.txt") == ["sft: one", "two", "kept"]  # at once
    assert shown == ["sft: one\ntwo"]


def test_a_process_without_a_file_speaks_only(tmp_path: Path) -> None:
    shown: list[str] = []
    with StageLog(None, shown.append, verbose=False) as log:
        log.say("one")
    assert shown == ["one"]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_are_kept_though_they_are_hidden(verbose: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        with StageLog(tmp_path / "log.txt", lambda text: None, verbose):
            for _ in range(2):
                warnings.warn("no flash attention here", stacklevel=1)
            warnings.warn("for authors", DeprecationWarning, stacklevel=1)
        warnings.warn("afterwards", stacklevel=1)
    (line,) = lines(tmp_path / "log.txt")
    assert re.fullmatch(
        r"warning: no flash attention here \(UserWarning, test_log.py:\d+\)", line
    ), line
    assert [str(entry.message) for entry in seen] == ["no flash attention here"] * verbose


def test_what_ended_a_stage_stands_last(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="too long"),
        StageLog(tmp_path / "log.txt", print, verbose=False),
    ):
        raise ValueError("too long")
    assert lines(tmp_path / "log.txt") == ["ended by ValueError: too long"]


def test_a_stage_leaves_its_log_over_an_interruption(stages: TinyStages) -> None:
    job = stages.job("sft", checkpoint_every=2)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    stages.train(job)
    said = lines(job.output / "log.txt")
    assert said[0].startswith("sft: loading ")
    assert [line.split()[2] for line in said if line.startswith("sft: step")] == [
        "1/4",
        "2/4",
        "3/4",
        "3/4",
        "4/4",
    ]
    assert "ended by Interrupted: " in said
    assert "sft: continuing at step 2 of 4" in said


def fail(log: StageLog) -> None:
    log.say("sft: one\ntwo")
    raise ValueError("lost")


def test_each_rank_has_a_log_of_its_own(tmp_path: Path) -> None:
    files = [log_file(tmp_path, rank) for rank in (0, 1, 12)]
    assert [file.name for file in files] == ["log.txt", "log-1.txt", "log-12.txt"]
    for rank, file in zip((0, 1, 12), files, strict=True):
        log = StageLog(file, lambda text: None, verbose=False, rank=rank)
        with pytest.raises(ValueError, match="lost"), log:
            fail(log)
    assert lines(files[0]) == ["sft: one", "two", "ended by ValueError: lost"]
    assert lines(files[2]) == [
        "[rank 12] sft: one",
        "[rank 12] two",
        "[rank 12] ended by ValueError: lost",
    ]
