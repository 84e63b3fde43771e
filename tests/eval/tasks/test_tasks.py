"""The local tasks are ordinary lm-eval tasks, and the suites name them all."""

from pathlib import Path
from typing import Any

import pytest

from cpt import corpora, yaml12
from eval.suite import load_suite
from eval.taskfile import read_task, write_task

ROOT = Path(__file__).parents[3]
TASKS = sorted((ROOT / "eval" / "tasks").glob("*.yaml"))
SUITES = sorted((ROOT / "configs" / "probes").glob("*.yaml"))


def config(path: Path) -> dict[str, Any]:
    return read_task(path.stem, path).config


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_has_a_version_and_one_metric_with_its_direction(path: Path) -> None:
    task = config(path)
    assert task["task"] == path.stem
    assert task["metadata"]["version"] == 1.0
    (metric,) = task["metric_list"]
    assert metric["higher_is_better"] is (metric["metric"] == "acc")
    assert task["dataset_path"] == "json"
    assert "dataset_kwargs" not in task


def test_lm_eval_lists_and_builds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("CPT_CACHE", str(tmp_path))
    manager = TaskManager(include_path=str(ROOT / "eval" / "tasks"), include_defaults=False)
    assert set(manager.all_tasks) == {path.stem for path in TASKS}
    task = read_task("format", ROOT / "eval" / "tasks" / "format.yaml")
    write_task(task, tmp_path / "tasks", corpora.views("general") / "probe_format.jsonl", None)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    loaded = manager.load(["format"])["tasks"]["format"]
    assert len(loaded.dataset["test"]) >= 100
    doc = loaded.dataset["test"][0]
    assert loaded.process_results(doc, ["no such reply"]) == {"acc": 0.0}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_name_tasks_and_views_that_exist(path: Path) -> None:
    suite = load_suite(path)
    for probe in suite.probes.values():
        if probe.data is None:
            continue
        assert probe.data.view in corpora.view_names(probe.data.builder)
        assert probe.task in {task.stem for task in TASKS}


def test_the_quickstart_has_a_new_skill_and_five_general_abilities() -> None:
    probes = yaml12.load(ROOT / "configs" / "probes" / "quickstart.yaml")["probes"]
    groups = [probe["group"] for probe in probes.values()]
    assert "domain" in groups
    assert len([group for group in groups if group != "domain"]) >= 5
    assert all(0 < probe["margin"] <= 0.05 for probe in probes.values())
