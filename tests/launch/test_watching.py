"""What looks measure with a suite, what they compare it with, and when they end a stage."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import stages.run as runner
from cpt.errors import RecipeError
from cpt.watch import WatchSpec
from eval.suite import load_suite
from launch.console import Console
from launch.watching import looker, watching
from stages.watch import FOLDER, read
from tests.reading_suite import numbered, write_suite
from tests.tiny_stages import TinyStages


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, "small", numbered(range(12)), metric="bits_per_byte")


def test_the_suite_is_read_when_planning(suite: Path, tmp_path: Path) -> None:
    assert watching(WatchSpec(suite=str(suite)), "sft.yaml") == load_suite(suite).hash
    assert watching(WatchSpec(), "sft.yaml") == ""
    with pytest.raises(RecipeError, match=r"sft\.yaml: watch\.suite: .*gone\.yaml"):
        watching(WatchSpec(suite=str(tmp_path / "gone.yaml")), "sft.yaml")


def test_to_stop_by_no_probe_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"sft\.yaml: watch\.stop: .* name a suite"):
        watching(WatchSpec(stop=True), "sft.yaml")


@pytest.mark.chain
@pytest.mark.parametrize("stop", [False, True])
def test_a_stage_that_damages_the_model_ends(suite: Path, stages: TinyStages, stop: bool) -> None:
    """At a rate that ruins it at once, against a base model that is not touched."""
    watch = WatchSpec(every=2, early=False, prompts=0, suite=str(suite), stop=stop, margin=0.05)
    job = stages.job("pretrain", parent=stages.base, learning_rate=30.0, max_grad_norm=1.0)
    job = replace(job, spec=job.spec.model_copy(update={"watch": watch}))
    runner.run(job, lambda line: None, make_look=partial(looker, job, Console()))
    rows = read(job.output)
    assert [row["step"] for row in rows] == ([0, 2] if stop else [0, 2, 4])
    assert rows[1]["probe/reads"] > rows[0]["probe/reads"] + 0.05  # bits per byte
    known = load_suite(suite)
    results = job.output / FOLDER / f"{known.name}-{known.hash}"
    assert sorted(file.name for file in results.iterdir())[:2] == [
        "step-000000.json",
        "step-000002.json",
    ]
    items = json.loads((results / "step-000002.json").read_text())["probes"]["reads"]["items"]
    assert len(items) == 12
    base = json.loads((stages.base / "probes" / f"{known.name}-{known.hash}.json").read_text())
    assert base["probes"]["reads"]["value"] == pytest.approx(rows[0]["probe/reads"])


@pytest.mark.chain
def test_a_stage_that_harms_nothing_goes_on(suite: Path, stages: TinyStages) -> None:
    watch: Any = WatchSpec(every=2, early=False, prompts=0, suite=str(suite), stop=True)
    job = stages.job("pretrain", parent=stages.base, learning_rate=1e-6)
    job = replace(job, spec=job.spec.model_copy(update={"watch": watch}))
    runner.run(job, lambda line: None, make_look=partial(looker, job, Console()))
    assert [row["step"] for row in read(job.output)] == [0, 2, 4]
