"""The base model is measured twice where the gate is to know how far equal weights lie apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.noise import is_silent, read_noise, second_of
from eval.probe import result_path
from eval.suite import load_suite
from launch.console import Console
from launch.stage import measure
from stages.base import Job
from tests.reading_suite import numbered, write_suite
from tests.tiny_stages import TinyStages

pytestmark = pytest.mark.chain


@pytest.fixture
def job(stages: TinyStages, tmp_path: Path) -> Job:
    import shutil

    suite = write_suite(tmp_path, "small", numbered(range(5)), metric="bits_per_byte")
    output = tmp_path / "base-1"
    shutil.copytree(stages.base, output)
    shutil.rmtree(output / "probes", ignore_errors=True)
    return replace(stages.job("sft"), name="base", id="base-1", output=output, suite=suite)


def test_equal_weights_give_equal_results_on_a_cpu(job: Job) -> None:
    suite = load_suite(Path(str(job.suite)))
    first = result_path(job.output, suite)
    measure(replace(job, twice=True), Console(), None)
    assert is_silent(read_noise(first, suite.hash))
    assert second_of(first).is_file()


@pytest.mark.parametrize("twice", [False, None])
def test_once_unless_it_is_asked_for_or_an_accelerator_computes(
    job: Job, twice: bool | None
) -> None:
    first = result_path(job.output, load_suite(Path(str(job.suite))))
    measure(replace(job, twice=twice), Console(), None)
    assert first.is_file()
    assert not second_of(first).is_file()


def test_a_second_measurement_can_come_later(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    import eval.probe

    first = result_path(job.output, load_suite(Path(str(job.suite))))
    measure(job, Console(), None)
    before = first.read_text()
    calls: list[Any] = []
    real = eval.probe.probe_model

    def counted(*given: Any, **settings: Any) -> Any:
        calls.append(given)
        return real(*given, **settings)

    monkeypatch.setattr(eval.probe, "probe_model", counted)
    for _ in range(2):
        measure(replace(job, twice=True), Console(), None)
    assert len(calls) == 1
    assert first.read_text() == before
    assert second_of(first).is_file()
