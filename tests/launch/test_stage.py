"""What a stage is given of the chain's suite before it is measured with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stages.run as running
from cpt import corpora, world
from cpt.errors import ProbeError
from cpt.recipe import StageSpec
from eval.suite import load_suite
from launch import stage
from stages.base import Job

QUESTION = "Which town lies on the river that nobody has named?"


class Silent:
    """A console that nobody reads."""

    def say(self, text: str) -> None:
        """Nothing."""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A stage with a suite of one question."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "towns.yaml").write_text(
        "task: towns\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: question\ndoc_to_choice: choices\ndoc_to_target: answer\n"
        "metric_list: [{metric: acc}]\n"
    )
    (tmp_path / "probe_towns.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    data = {"builder": "general", "view": "probe_towns"}
    probes = {"towns": {"group": "knowledge", "data": data}}
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"name": "one", "include": "tasks", "probes": probes}))
    monkeypatch.setattr(corpora, "BUILDERS", {"general": "m:C"})
    monkeypatch.setattr(corpora, "view_names", lambda builder: ["probe_towns"])
    monkeypatch.setattr(corpora, "fingerprint_of", lambda builder, source: "v1")
    monkeypatch.setattr(corpora, "views", lambda builder, source: tmp_path)
    return Job(
        name="sft",
        id="sft-1",
        spec=StageSpec.model_construct(kind="sft"),
        seed=1,
        parent="",
        roles={},
        output=tmp_path / "sft-1",
        inputs={},
        parents={},
        suite=suite,
        suite_hash=load_suite(suite).hash,
        store=tmp_path / "store",
    )


def given(job: Job, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `execute` hands to the stage for its hygiene."""
    seen: list[Any] = []
    monkeypatch.setattr(running, "run", lambda job, say, check, items, look: seen.append(items))
    monkeypatch.setattr(stage, "measure", lambda *given: None)
    monkeypatch.setattr(world, "current", world.World)
    stage.execute(job, Silent(), is_held=True)  # type: ignore[arg-type]
    return seen[0]


def test_it_can_look_for_the_items_of_its_suite(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    items = given(job, monkeypatch)()
    assert items.are_in({"prompt": [{"role": "user", "content": QUESTION}]})
    assert not items.are_in({"text": "Which town lies on the river?"})


def test_without_a_suite_there_is_nothing_to_look_for(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert given(replace(job, suite=None, suite_hash=""), monkeypatch) is None


def test_a_suite_that_changed_since_the_plan_is_refused(job: Job) -> None:
    with pytest.raises(ProbeError, match="the suite changed while the chain runs"):
        stage.probe_items(replace(job, suite_hash="another"))
