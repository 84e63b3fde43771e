"""Rows that hooks use beside the stream go through the stage's hygiene, in a stage that trains."""

from dataclasses import replace
from typing import Any

import pytest

from cpt.errors import DataError
from cpt.hooks.context import StageContext
from cpt.recipe import HygieneSpec
from cpt.replay.hygiene import ProbeItems
from cpt.rows import Row
from stages import context, run, under_way
from stages.base import Job
from tests.tiny_stages import TinyStages, read

# One of the 24 texts of the stage before, and of no chat.
ITEM = "3 and 4 make 7. " * 4
HOOKS: dict[str, dict[str, Any]] = {
    "lwf": {"rows_of": "previous"},
    "der": {"size": 24},
    "agem": {"of": "previous"},
    "gem": {"of": "previous"},
    "ewc": {"samples": 24},
    "mas": {"samples": 24},
}


class Runs:
    """Stages with a suite of one item; what their hooks made tokens of, and how often it was read."""

    def __init__(self, stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stages = stages
        self.said: list[str] = []
        self.encoded: list[Row] = []
        self.num_reads = 0

        def watched(*arguments: Any) -> StageContext:
            ctx = context.context(*arguments)
            encode = ctx.encode
            assert encode is not None

            def encoded(rows: Any) -> Any:
                self.encoded.extend(rows)
                return encode(rows)

            ctx.encode = encoded
            return ctx

        monkeypatch.setattr(under_way, "context", watched)

    def items(self) -> ProbeItems:
        self.num_reads += 1
        return ProbeItems([ITEM])

    def train(self, hooks: dict[str, Any], **hygiene: Any) -> Job:
        parent = self.stages.pretrain.output
        job = self.stages.job("sft", hooks, parent=parent, max_steps=1, learning_rate=0.01)
        spec = job.spec.model_copy(update={"hygiene": HygieneSpec(**hygiene)})
        job = replace(job, spec=spec)
        run.run(job, self.said.append, probe_items=self.items)
        return job


@pytest.fixture
def runs(stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(stages, monkeypatch)


@pytest.mark.parametrize("name", HOOKS)
def test_an_item_of_a_probe_in_the_parents_exemplars(name: str, runs: Runs) -> None:
    with pytest.raises(DataError, match=f"data {name} of pretrain: 1 of 24 rows hold items"):
        runs.train({name: HOOKS[name]})
    assert not runs.encoded
    job = runs.train({name: HOOKS[name]}, probes="drop")
    assert len({row["text"] for row in runs.encoded}) == 23
    assert not [row for row in runs.encoded if "3 and 4 make 7" in row["text"].split(". ")]
    told = f"{name} of pretrain: left out 1 rows with items of probes"
    assert f"sft: {told}" in runs.said
    found = read(job).manifest["checks"]["hygiene"]
    assert found == {f"{name} of pretrain": {"rows": 23, "probe_items": 1}}


@pytest.mark.parametrize("name", [name for name in HOOKS if name != "der"])
def test_an_item_of_a_probe_in_a_data_set_that_takes_their_place(name: str, runs: Runs) -> None:
    settings = {"source": runs.stages.data("texts")}
    with pytest.raises(DataError, match=rf"data {name} of texts\.jsonl: 1 of 24 rows hold items"):
        runs.train({name: settings})
    assert not runs.encoded


def test_the_items_are_read_once_for_all_hooks_and_the_stream(runs: Runs) -> None:
    hooks = {"agem": {"of": "previous"}, "mas": {}, "replay": {"of": "previous", "share": 0.2}}
    job = runs.train(hooks, probes="drop")
    assert runs.num_reads == 1
    manifest = read(job).manifest
    assert set(manifest["checks"]["hygiene"]) == {"agem of pretrain", "mas of pretrain"}
    assert [entry["probe_items"] for entry in manifest["data"]] == [0, 1]


def test_where_nothing_is_looked_for_nothing_is_noted(runs: Runs) -> None:
    job = runs.train({"agem": {"of": "previous"}}, probes="keep")
    assert runs.num_reads == 0
    assert "hygiene" not in read(job).manifest["checks"]
