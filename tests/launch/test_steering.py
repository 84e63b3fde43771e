"""Probes that choose models: what enters the id, what is refused, and that they really measure."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt.errors import ProbeError, RecipeError
from cpt.merging.spec import GreedySoup, Layerwise, Soup
from cpt.read_recipe import check_stage
from eval.suite import load_suite
from launch.console import Console
from launch.job_file import job_from_json, job_to_json
from launch.steering import scorer, steering
from stages.base import Job
from tests.reading_suite import numbered, write_suite


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    """Suites of one probe each, bits per byte of the texts with these numbers."""

    def make(name: str, numbers: range, **settings: Any) -> Path:
        return write_suite(tmp_path, name, numbered(numbers), **settings)

    return make


def soup(suite: Path, probe: str = "reads") -> GreedySoup:
    return GreedySoup(method="greedy_soup", suite=str(suite), probe=probe)


def test_the_probe_is_part_of_the_id(suite: Any) -> None:
    dev = suite("dev", range(3))
    first = steering(soup(dev), "m.yaml")
    assert first == load_suite(dev).probes["reads"].fingerprint
    assert steering(soup(suite("dev2", range(4))), "m.yaml") != first
    assert steering(Soup(method="soup"), "m.yaml") is None
    assert steering(Layerwise(method="layerwise"), "m.yaml") is None
    search = Layerwise(method="layerwise", suite=str(dev), probe="reads")
    assert steering(search, "m.yaml") == first


def test_a_probe_that_the_report_scores_cannot_choose(suite: Any) -> None:
    report = load_suite(suite("report", range(3)))
    # Fewer of the same items are the same items.
    tree = yaml.safe_load(report.path.read_text())
    tree["probes"]["reads"]["limit"] = 1
    dev = report.path.with_name("dev.yaml")
    dev.write_text(yaml.safe_dump(tree))
    assert steering(soup(dev), "m.yaml")
    with pytest.raises(RecipeError, match=r"m\.yaml: merge\.probe: reads has the items of reads"):
        steering(soup(dev), "m.yaml", report)


def with_settings(file: Path, name: str, **settings: Any) -> Path:
    tree = yaml.safe_load(file.read_text())
    tree["probes"]["reads"] |= settings
    other = file.with_name(f"{name}.yaml")
    other.write_text(yaml.safe_dump(tree))
    return other


def test_dev_items_choose_where_the_report_scores_the_others(suite: Any) -> None:
    file = suite("report", range(3))
    report = load_suite(with_settings(file, "split", dev=0.5))
    for share in (0.5, 0.3):
        assert steering(soup(with_settings(file, "dev", dev=share)), "m.yaml", report)
    for settings in ({}, {"dev": 0.6}, {"dev": 0.5, "cluster": "text"}):
        with pytest.raises(RecipeError, match="reads has the items of reads"):
            steering(soup(with_settings(file, "dev", **settings)), "m.yaml", report)


def test_a_probe_without_a_better_cannot_choose(suite: Any) -> None:
    dev = with_settings(suite("dev", range(3)), "drift", direction="none")
    with pytest.raises(RecipeError, match=r"merge\.probe: reads of .* has `direction: none`"):
        steering(soup(dev), "m.yaml")


def test_a_suite_or_probe_that_is_not_there_is_refused(suite: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no 'raeds'; did you mean 'reads'"):
        steering(soup(suite("dev", range(3)), "raeds"), "m.yaml")
    with pytest.raises(RecipeError, match=r"m\.yaml: merge\.suite: .*gone\.yaml"):
        steering(soup(tmp_path / "gone.yaml"), "m.yaml")


@pytest.fixture
def job(suite: Any, tiny_folder: Path, tmp_path: Path) -> Job:
    merge = {"method": "greedy_soup", "suite": str(suite("dev", range(3))), "probe": "reads"}
    tree = {"kind": "merge", "from": ["a", "b"], "merge": merge}
    parent = tmp_path / "stages" / "sft-1"
    parent.mkdir(parents=True)
    return Job(
        name="both",
        id="merge-1",
        spec=check_stage(tree, "m.yaml"),
        seed=5,
        parent=str(parent),
        roles={},
        output=tmp_path / "stages" / "merge-1",
        inputs={},
        parents={},
        load={"dtype": "float32"},
        store=tmp_path,
    )


def test_a_worker_is_given_the_same_job(job: Job) -> None:
    assert job_from_json(job_to_json(job)) == job


def test_a_checkpoint_is_scored_and_higher_is_better(job: Job, tiny_folder: Path) -> None:
    score = scorer(job, Console())
    assert score is not None
    found = score(tiny_folder)
    assert -20 < found < 0  # bits per byte, of which fewer are better
    assert score(tiny_folder) == found


def test_items_that_the_report_scores_are_refused(job: Job, tiny_folder: Path) -> None:
    from eval.probe import probe_checkpoint, write_result

    assert isinstance(job.spec.merge, GreedySoup)
    dev = load_suite(Path(job.spec.merge.suite))
    assert job.store
    write_result(Path(job.parent), probe_checkpoint(str(tiny_folder), dev, cache=job.store))
    score = scorer(job, Console())
    assert score is not None
    with pytest.raises(ProbeError, match=r"3 of its 3 items are also in reads, which the report"):
        score(tiny_folder)
