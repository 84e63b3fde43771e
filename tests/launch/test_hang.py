"""What is said of processes that stand still, and which of them do."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import CptError
from launch import hang
from launch.hang import read_signs, still
from stages.beats import Beats


def sign(count: int, place: str) -> dict[str, Any]:
    return {"count": count, "place": place, "trains": True, "life": count}


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ({}, "no process has begun for 60 s"),
        (
            {0: sign(8, "step 3 behind its loss"), 1: sign(7, "step 3 before its loss")},
            "process 1 of 2 stands still for 60 s in step 3 before its loss, and the others wait in step 3 "
            "behind its loss",
        ),
        (
            {0: sign(8, "a"), 1: sign(8, "a")},
            "all 2 processes stand still for 60 s in a",
        ),
        (
            {0: sign(7, "a"), 1: sign(9, "b"), 2: sign(7, "a"), 3: sign(9, "b")},
            "processes 0 and 2 of 4 stand still for 60 s in a, and the others wait in b",
        ),
    ],
)
def test_who_the_others_wait_for(signs: Any, words: str) -> None:
    assert still("sft", signs, 60, Path("x")).startswith(
        f"sft: {words}; what each was doing is in x;"
    )


def test_minutes_are_told_as_minutes() -> None:
    assert "for 31 minutes" in still("sft", {}, 31 * 60, Path("x"))


def test_signs_are_those_that_were_written(tmp_path: Path) -> None:
    beats = Beats()
    beats.write_to(tmp_path / "sft-1.beat-1")
    beats.begin()
    beats.reach("step 1 before its loss")
    (tmp_path / "sft-1.beat-0").touch()  # its process has only just begun
    (tmp_path / "sft-12.beat-0").write_text(json.dumps(sign(1, "another stage")))
    found = read_signs(tmp_path / "sft-1.json")
    assert found == {1: {"count": 2, "place": "step 1 before its loss", "trains": True, "life": 3}}
    beats.end()  # a shorter text leaves nothing of the longer one
    assert read_signs(tmp_path / "sft-1.json")[1]["trains"] is False


WORKER = (
    "import sys, time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: {body}"
)


def group(body: str, seconds: float) -> "subprocess.Popen[bytes]":
    """A launcher whose only worker computes or sleeps."""
    worker = WORKER.format(body=body, seconds=seconds)
    launcher = f"import subprocess, sys; subprocess.call([sys.executable, '-c', {worker!r}])"
    return subprocess.Popen([sys.executable, "-c", launcher])


@pytest.mark.parametrize(("trains", "body"), [(False, "time.sleep(0.1)"), (True, "pass")])
def test_without_a_sign_it_is_ended(tmp_path: Path, trains: bool, body: str) -> None:
    """Where it trains, it must go on; elsewhere it must at least compute."""
    (tmp_path / "sft-1.beat-0").write_text(json.dumps(sign(3, "a") | {"trains": trains}))
    process = group(body, 30)
    began = time.monotonic()
    try:
        with pytest.raises(CptError, match="all 1 processes stand still"):
            hang.wait(process, tmp_path / "sft-1.json", "sft", 3.0)
        assert 3.0 <= time.monotonic() - began < 30
    finally:
        process.kill()
        process.wait()


def test_what_computes_before_it_trains_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "sft-1.beat-0").write_text(json.dumps(sign(3, "a") | {"trains": False}))
    assert hang.wait(group("pass", 6), tmp_path / "sft-1.json", "sft", 2.0) == 0


def test_zero_waits_for_ever(tmp_path: Path) -> None:
    assert hang.wait(group("time.sleep(0.1)", 1), tmp_path / "sft-1.json", "sft", 0) == 0
