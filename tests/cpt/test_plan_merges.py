"""Chains in which a stage merges others: how they are planned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import CptError
from cpt.estimate import estimate
from cpt.manifest import Manifest
from cpt.plan_table import table_of
from cpt.store import Store
from stages.workload import workload

Refused = Callable[..., str]
TIES = {"method": "ties", "base": "pretrain"}


@pytest.fixture
def forked(chain: Any) -> Any:
    """base -> pretrain -> {code, chat} -> both (merged) -> dpo."""
    sft = chain.stages.pop("sft")
    chain.stages.pop("grpo")
    chain.stages |= {
        "code": {**sft, "from": "pretrain", "hooks": []},
        "chat": {**sft, "from": "pretrain", "hooks": [], "seed": 3},
        "both": {"kind": "merge", "from": ["code", "chat"], "merge": TIES},
    }
    names = ("pretrain", "code", "chat", "both", "dpo")
    chain.chain["stages"] = {name: f"{name}.yaml" for name in names}
    return chain


def test_a_merge_has_its_models_and_what_they_come_from_as_parents(forked: Any) -> None:
    plan = forked.plan()
    names = {node.id: node.name for node in plan.nodes}
    both = plan.node("both")
    assert {role: names[stage] for role, stage in both.parents.items()} == {
        "parent": "code",
        "parent.2": "chat",
        "base": "pretrain",
    }
    assert [names[stage] for stage in both.merged] == ["code", "chat"]
    assert both.id.startswith("merge-")
    assert names[plan.node("dpo").parents["parent"]] == "both"


def test_all_that_changes_the_weights_changes_the_id_and_nothing_else(forked: Any) -> None:
    first = forked.ids()["both"]
    for change in (
        "stages.both.from=[chat, code]",  # the order: masks and anchors depend on the place
        "stages.both.merge.base=base",
        "stages.both.merge.onto=base",
        "stages.both.merge.density=0.3",
        "stages.both.merge.method=dare_ties",
        "stages.both.seed=4",
        "stages.code.train.learning_rate=2e-5",
    ):
        assert forked.ids(change)["both"] != first, change
    for change in ("stages.both.merge.shard_bytes=100", "stages.both.merge.unrelated=true"):
        assert forked.ids(change)["both"] == first, change


def test_other_stages_keep_their_ids(chain: Any) -> None:
    # What was trained before there were merges is not trained again.
    assert "merge" not in chain.plan().node("sft").inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["stages.both.data=chats.jsonl"], "data: a merge stage trains nothing; remove it"),
        (["stages.both.train={max_steps: 3}"], "train: a merge stage trains nothing; remove it"),
        (["stages.both.hooks=[ema]"], "hooks: a merge stage trains nothing; remove it"),
        (["stages.both.rewards=[exact_match]"], "rewards: a merge stage trains nothing"),
        (["stages.both.reference=base"], "reference: a merge stage trains nothing; remove it"),
        (["stages.both.micro_batch=2"], "micro_batch: a merge stage trains nothing; remove it"),
        (["stages.both.checkpoint_every=2"], "checkpoint_every: a merge stage trains nothing"),
        (
            ["stages.both.from=[code, chatt]"],
            "both.from: 'chatt' is no stage; did you mean 'chat'?",
        ),
        (["stages.both.merge.base=sft"], "both.merge.base: 'sft' is no stage"),
        (["stages.both.merge.onto=dpo"], "merge.onto: 'dpo' does not come before both"),
        (["stages.both.merge.base=code"], "merge.base: code is no ancestor of chat"),
        (["stages.chat.from=base"], "merge.base: pretrain is no ancestor of chat"),
        (["stages.both.merge={method: slerp}", "stages.both.from=code"], "slerp merges 2 models"),
        (["stages.both.kind=sft"], "merge: a sft stage trains; remove it"),
        (["stages.both.kind=sft", "stages.both.data=chats.jsonl"], "merge: a sft stage trains"),
        (["stages.both.merge.densty=1"], "both.yaml with stages.both.merge.densty=1: merge has no"),
        (["stages.dpo.merge={method: soup}"], "merge: a dpo stage trains; remove it, or write"),
        (["stages.dpo.from=[code, chat]"], "a dpo stage continues one stage, not 2"),
    ],
)
def test_what_a_merge_cannot_honour_is_refused(
    forked: Any, refused: Refused, changes: list[str], message: str
) -> None:
    assert message in refused(forked.plan, *changes)


def test_a_merge_without_a_method_is_refused(forked: Any, refused: Refused) -> None:
    del forked.stages["both"]["merge"]
    forked.stages["both"]["data"] = "chats.jsonl"
    message = refused(forked.plan)
    assert "merge: is missing; write merge: {method: soup}" in message
    assert "data: a merge stage trains nothing" in message


def test_models_of_other_ancestors_are_merged_when_asked_for(forked: Any) -> None:
    forked.plan("stages.chat.from=base", "stages.both.merge.unrelated=true")


def test_later_stages_recall_all_that_was_merged(forked: Any, refused: Refused) -> None:
    for name in ("base", "pretrain", "code", "chat", "both"):
        forked.plan(f"stages.dpo.hooks=[{{kl: {{of: {name}}}}}]")
    chat = "stages.chat.from=base"
    changes = ("stages.both.merge={method: soup}", "stages.both.from=[chat]", chat)
    message = refused(forked.plan, *changes, "stages.dpo.hooks=[{kl: {of: code}}]")
    assert "'code' is no stage before this one" in message


def test_a_merge_leaves_the_rows_of_what_it_merged(forked: Any, refused: Refused) -> None:
    replay = "stages.dpo.hooks=[{replay: {of: both}}]"
    message = refused(forked.plan, replay)
    assert "both left messages rows, and a dpo stage trains on preference" in message
    mixed = ("stages.both.from=[code, pretrain]", "stages.both.merge.base=base")
    assert "both left messages and text rows" in refused(forked.plan, replay, *mixed)
    again = {**forked.stages["code"], "from": "both", "hooks": [{"replay": {"of": "both"}}]}
    forked.stages["dpo"] = again
    forked.plan()
    soup = ("stages.both.merge={method: soup}", "stages.both.from=[base]")
    assert "both merged models that left no rows" in refused(forked.plan, *soup)
    again["hooks"] = [{"replay": {"of": "all"}}]
    forked.plan(*soup)


def test_what_was_merged_was_not_measured_while_it_trained(forked: Any, refused: Refused) -> None:
    """A merge can list no hooks, so there is another way out."""
    message = refused(forked.plan, "stages.dpo.hooks=[{si: {of: both}}]")
    assert "of: both was not trained here, and si measures while a stage trains" in message
    assert "name stages that list it, or protect it with another hook" in message


def test_the_plan_shows_the_method_and_what_it_needs(forked: Any, tmp_path: Path) -> None:
    plan, store = forked.plan(), Store(tmp_path / "runs")

    def shown() -> str:
        needs = estimate(plan, store, "single", 1, workload)
        return table_of(plan, store, None, 0, "single", needs)

    line = next(line for line in shown().splitlines() if " both " in line)
    assert " ties " in line
    assert "GB" in line
    assert "?" in line  # no merge was made here yet
    folder = store.stage("merge-0")
    (folder / "checkpoint").mkdir(parents=True)
    config = {**forked.chain["model"]["random"]["config"], "vocab_size": 300}
    (folder / "checkpoint" / "config.json").write_text(json.dumps(config))
    Manifest(
        id="merge-0",
        kind="merge",
        name="merge",
        parents={"parent": "a", "parent.2": "b", "base": "c"},
        inputs={"train": {}, "merge": {"method": "soup", "steering": None}},
        seconds={"merge": 40.0},
    ).write(folder)
    line = next(line for line in shown().splitlines() if " both " in line)
    assert "40 s" in line  # as many models of the same size
    assert "time of both" not in shown()


def test_a_wrong_merge_hides_no_other_error(forked: Any) -> None:
    forked.stages["both"]["merge"] = {"method": "soup", "weights": [1, 1]}
    forked.stages["code"]["train"]["learning_rat"] = 1
    with pytest.raises(CptError) as failed:
        forked.plan()
    assert "sum to 2" in str(failed.value)
    assert "data is missing" not in str(failed.value)
