"""A chain folder becomes a story, however far it has come."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import ProbeError, StoreError
from eval.report.gather import gather
from eval.report.series import Series, read_series, thinned


def test_a_whole_chain_has_changes_against_base_and_predecessor(fake_chain: Any) -> None:
    fake = fake_chain()
    story: Any = gather(fake.chain, fake.stages)
    assert [stage.status for stage in story.stages] == ["probed"] * 5
    sft = story.stages[2]
    assert {change.before for change in sft.from_base} == {"base"}
    assert {change.before for change in sft.from_predecessor} == {"pretrain"}
    base, after = story.matrix.rows[0].scores["python_qa"], sft.row.scores["python_qa"]
    change = next(change for change in sft.from_base if change.probe == "python_qa")
    assert math.isclose(change.delta, after.value - base.value)
    assert sft.verdict.action == "pass"
    assert story.stages[0].from_base == ()
    # four stages share the level, also those that are not probed yet
    fake = fake_chain(name="half", probed=3)
    for told in (story, gather(fake.chain, fake.stages)):
        shown = [*told.stages[2].from_base, *told.stages[2].from_predecessor]
        assert {change.level for change in shown} == {0.05 / (4 * len(told.probes))}


def test_columns_stand_by_group_and_shares_are_shown_in_percent(fake_chain: Any) -> None:
    fake = fake_chain()
    story: Any = gather(fake.chain, fake.stages)
    groups = [probe.group for probe in story.probes]
    assert groups[:2] == ["domain", "domain"]
    assert groups == sorted(groups, key=groups.index)
    scales = {probe.name: (probe.scale, probe.places) for probe in story.probes}
    assert scales["python_qa"] == (100.0, 1)
    assert scales["python_docs"] == (1.0, 3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"probed": 0}, ["to do"] * 5),
        ({"probed": 1}, ["probed"] + ["to do"] * 4),
        ({"probed": 1, "trained": 2}, ["probed", "trained", *["to do"] * 3]),
        ({"probed": 2, "running": True}, ["probed", "probed", "unfinished", "to do", "to do"]),
    ],
)
def test_a_partial_chain_says_where_it_stands(
    fake_chain: Any, settings: Any, expected: Any
) -> None:
    fake = fake_chain(**settings)
    story: Any = gather(fake.chain, fake.stages)
    assert [stage.status for stage in story.stages] == expected


def test_an_unfinished_stage_shows_the_log_of_its_partial_folder(fake_chain: Any) -> None:
    fake = fake_chain(probed=2, running=True)
    story: Any = gather(fake.chain, fake.stages)
    assert "loss" in {series.name for series in story.stages[2].series}


def test_a_stage_is_compared_with_the_first_parent_that_has_a_row(fake_chain: Any) -> None:
    fake = fake_chain()
    chain = json.loads((fake.chain / "chain.json").read_text())
    chain["nodes"][4]["parents"] = ["pretrain", "dpo"]
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    story: Any = gather(fake.chain, fake.stages)
    assert story.stages[4].predecessor.stage == "pretrain"


def test_two_chains_are_compared_at_the_last_stage_both_have(fake_chain: Any) -> None:
    ours = fake_chain(probed=4)
    other = fake_chain(name="naive", naive=True)
    story: Any = gather(ours.chain, ours.stages, other.chain)
    comparison = story.comparison
    assert (comparison.row.stage, comparison.other_row.stage) == ("dpo", "dpo")
    change = next(change for change in comparison.changes if change.probe == "general_text")
    ours_value = comparison.row.scores["general_text"].value
    assert math.isclose(
        change.delta, ours_value - comparison.other_row.scores["general_text"].value
    )
    assert change.improved


def test_a_remedy_is_compared_in_the_place_of_its_stage(fake_chain: Any) -> None:
    """The damaged sft was thrown away; what stands for it is what the other chain's sft is held to."""
    ours = fake_chain(probed=4)
    chain = json.loads((ours.chain / "chain.json").read_text())
    made = {"name": "sft.repair", "kind": "repair", "stands_for": "sft"}
    chain["nodes"][3] |= made | {"parents": ["sft", "pretrain"]}
    del chain["nodes"][4]
    (ours.chain / "chain.json").write_text(json.dumps(chain))
    other = fake_chain(name="naive", naive=True, probed=3)
    story: Any = gather(ours.chain, ours.stages, other.chain)
    assert (story.comparison.row.stage, story.comparison.other_row.stage) == ("sft", "sft")
    assert story.comparison.row.scores == story.stages[3].row.scores
    assert story.comparison.row.scores != story.stages[2].row.scores


def test_chains_without_a_common_stage_are_not_compared(fake_chain: Any) -> None:
    ours, other = fake_chain(probed=1), fake_chain(name="naive", naive=True)
    assert gather(ours.chain, ours.stages, other.chain).comparison is None


def test_probes_measured_differently_are_refused(fake_chain: Any) -> None:
    fake = fake_chain(probed=2)
    path = next(fake.stages.glob("pretrain-*/probes/*.json"))
    path.write_text(path.read_text().replace('"fp-python_qa"', '"fp-other"'))
    with pytest.raises(ProbeError, match="measured differently"):
        gather(fake.chain, fake.stages)


def test_a_folder_without_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"chain\.json: no such file"):
        gather(tmp_path, tmp_path)


def test_a_half_written_chain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain.json").write_text('{"nodes": [')
    with pytest.raises(StoreError, match="is not whole JSON"):
        gather(tmp_path, tmp_path)


def test_a_resumed_log_keeps_the_last_value_of_a_step(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"step": 2, "loss": 3.0}\n{"step": 1, "loss": 4.0}\n{"step": 2, "loss": 2.5}\n'
        '{"step": 3, "loss": NaN, "note": "text"}\n[1]\n{"step": 4, "lo'
    )
    assert read_series(log) == (Series("loss", (1.0, 2.0), (4.0, 2.5), num_lost=1),)


def test_a_long_log_is_thinned_without_losing_its_spikes() -> None:
    values = [math.sin(step / 50) for step in range(5000)]
    values[1234], values[4321] = 40.0, -40.0
    long = Series("loss", tuple(float(step) for step in range(5000)), tuple(values))
    short = thinned(long, 200)
    assert len(short.steps) <= 202
    assert (max(short.values), min(short.values)) == (40.0, -40.0)
    assert (short.steps[0], short.steps[-1]) == (0.0, 4999.0)
    assert list(short.steps) == sorted(short.steps)
