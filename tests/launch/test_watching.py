"""What looks measure with a suite, what they compare it with, and when they end a stage."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import stages.run as runner
from cpt.data_spec import DataSpec
from cpt.errors import RecipeError
from cpt.gate_spec import GateSpec, ProbeGate
from cpt.watch import WatchSpec
from eval.probe import probe_checkpoint
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
    assert watching(WatchSpec(suite=str(suite)), "sft.yaml")
    assert watching(WatchSpec(), "sft.yaml") == ""
    with pytest.raises(RecipeError, match=r"sft\.yaml: watch\.suite: .*gone\.yaml"):
        watching(WatchSpec(suite=str(tmp_path / "gone.yaml")), "sft.yaml")


def test_what_ends_a_stage_is_part_of_its_id(suite: Path, tmp_path: Path) -> None:
    """The suite's items, and every margin, whoever says it; a margin of the watch goes before all others."""
    watch = WatchSpec(suite=str(suite))
    first = watching(watch, "sft.yaml", GateSpec(margin=0.02))
    assert watching(watch, "sft.yaml", GateSpec(margin=0.03)) != first
    own = GateSpec(margin=0.02, probes={"reads": ProbeGate(margin=0.2)})
    assert watching(watch, "sft.yaml", own) != first
    said = watch.model_copy(update={"margin": 0.2})
    assert watching(said, "sft.yaml", own) == watching(watch, "sft.yaml", own)
    assert watching(said, "sft.yaml") == watching(said, "sft.yaml", GateSpec(margin=0.5))
    other = write_suite(tmp_path, "other", numbered(range(12)), metric="bits_per_byte", margin=0.3)
    assert watching(WatchSpec(suite=str(other)), "sft.yaml") != first


def test_what_cannot_be_looked_with_is_refused_when_planning(suite: Path, tmp_path: Path) -> None:
    text = DataSpec(path=str(tmp_path / "gone.jsonl"))
    with pytest.raises(RecipeError, match=r"sft\.yaml: watch\.text: .*gone\.jsonl"):
        watching(WatchSpec(text=text), "sft.yaml")
    suite.write_text(suite.read_text() + "backend: vllm\n")
    with pytest.raises(RecipeError, match=r"watch\.suite: .*backend: vllm"):
        watching(WatchSpec(suite=str(suite)), "sft.yaml")


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
def test_a_stage_is_not_ended_for_what_it_inherited(suite: Path, stages: TinyStages) -> None:
    """Its parent is ruined; it does no further harm."""
    ruined = stages.job("pretrain", parent=stages.base, learning_rate=30.0, max_grad_norm=1.0)
    runner.run(ruined, lambda line: None)
    watch = WatchSpec(every=2, early=False, prompts=0, suite=str(suite), stop=True, margin=0.05)
    job = stages.job("pretrain", parent=ruined.output, learning_rate=1e-6)
    job = replace(job, spec=job.spec.model_copy(update={"watch": watch}))
    runner.run(job, lambda line: None, make_look=partial(looker, job, Console()))
    rows = read(job.output)
    assert [row["step"] for row in rows] == [0, 2, 4]
    base = json.loads(next((stages.base / "probes").glob("small-*.json")).read_text())
    assert rows[0]["probe/reads"] > base["probes"]["reads"]["value"] + 0.05


@pytest.mark.chain
def test_a_model_under_mixed_precision_is_looked_at_as_it_is_saved(
    suite: Path, stages: TinyStages
) -> None:
    """The last look sees what a probe of the checkpoint sees, to the last digit."""
    watch = WatchSpec(every=2, early=False, prompts=0, suite=str(suite))
    job = stages.job("sft", bf16=True)
    job = replace(job, spec=job.spec.model_copy(update={"watch": watch}))
    found = runner.run(job, lambda line: None, make_look=partial(looker, job, Console()))
    assert found is not None
    live = found[0]
    known = load_suite(suite)
    reloaded = probe_checkpoint(str(job.output / "checkpoint"), known, cache=job.output)
    expected = reloaded["probes"]["reads"]["value"]
    assert read(job.output)[-1]["probe/reads"] == pytest.approx(expected, abs=1e-7)
    assert "_original_forward" not in vars(live)


@pytest.mark.chain
def test_a_stage_that_harms_nothing_goes_on(suite: Path, stages: TinyStages) -> None:
    watch: Any = WatchSpec(every=2, early=False, prompts=0, suite=str(suite), stop=True)
    job = stages.job("pretrain", parent=stages.base, learning_rate=1e-6)
    job = replace(job, spec=job.spec.model_copy(update={"watch": watch}))
    runner.run(job, lambda line: None, make_look=partial(looker, job, Console()))
    assert [row["step"] for row in read(job.output)] == [0, 2, 4]
