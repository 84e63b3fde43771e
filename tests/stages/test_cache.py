"""Measured tensors: made once, by content, in whatever order runs meet."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cpt.world import World
from stages.cache import FILE, cache_of, cached
from stages.context import context
from tests.tiny_stages import TinyStages


def test_it_is_made_once_and_again_where_the_file_is_damaged(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"x": torch.ones(3)}

    for _ in range(2):
        assert cached(tmp_path, World(), "key", make)["x"].tolist() == [1, 1, 1]
    assert len(made) == 1
    (file,) = tmp_path.glob(f"*/{FILE}")
    file.write_bytes(b"half")
    assert cached(tmp_path, World(), "key", make)["x"].tolist() == [1, 1, 1]
    assert len(made) == 2


def test_two_runs_that_make_the_same_both_have_it(tmp_path: Path) -> None:
    """All are making when the first one writes: each would remove what another one is writing."""
    number = 8
    meeting, found = threading.Barrier(number), list[Any]()

    def make() -> dict[str, Any]:
        meeting.wait(30)
        return {"x": torch.arange(200_000.0)}

    def run() -> None:
        found.append(cached(tmp_path, World(), "key", make)["x"])

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == number
    assert all(value.equal(torch.arange(200_000.0)) for value in found)


def test_what_another_run_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def late() -> dict[str, Any]:
        cached(tmp_path, World(), "key", lambda: {"x": torch.zeros(1)})
        return {"x": torch.ones(1)}

    assert cached(tmp_path, World(), "key", late)["x"].tolist() == [0]


def test_models_in_other_numbers_are_measured_anew(stages: TinyStages, tmp_path: Path) -> None:
    made = []
    plain = replace(stages.job("sft"), output=tmp_path / "stages" / "sft-1")
    jobs = [replace(plain, load=load) for load in ({}, {"dtype": "float32"}, {"dtype": "bfloat16"})]
    for job in jobs:
        ctx = context(job, _kind(job), None, "", World(), lambda line: None)
        assert ctx.cached is not None
        ctx.cached(["fisher"], lambda: made.append(1) or {"x": torch.ones(1)})  # type: ignore[func-returns-value]
    assert len(made) == 2
    assert len(list(cache_of(plain).glob(f"*/{FILE}"))) == 2


def _kind(job: Any) -> Any:
    from stages import kind_of

    return kind_of(job.spec.kind, "")
