from collections.abc import Callable
from typing import Any

import pytest

from cpt.errors import PlanError
from cpt.plan_table import COLUMNS, table_of
from cpt.store import Store

Refused = Callable[..., str]


def parents(chain: Any, stage: str, *changes: str) -> dict[str, str]:
    plan = chain.plan(*changes)
    names = {node.id: node.name for node in plan.nodes}
    return {role: names[stage_id] for role, stage_id in plan.node(stage).parents.items()}


def test_a_stage_continues_the_one_before_unless_told_otherwise(chain: Any) -> None:
    assert parents(chain, "pretrain") == {"parent": "base"}
    assert parents(chain, "sft") == {"parent": "pretrain"}
    assert parents(chain, "dpo") == {"parent": "sft", "reference": "sft"}
    assert parents(chain, "dpo", "stages.dpo.from=base")["parent"] == "base"
    assert parents(chain, "dpo", "stages.dpo.from=[pretrain]")["parent"] == "pretrain"


def test_a_reference_is_the_parent_unless_named(chain: Any) -> None:
    assert parents(chain, "dpo", "stages.dpo.reference=base")["reference"] == "base"
    changes = ("stages.dpo.from=pretrain", "stages.dpo.reference=previous")
    assert parents(chain, "dpo", *changes) == {"parent": "pretrain", "reference": "pretrain"}
    assert parents(chain, "grpo") == {"parent": "dpo", "reference": "dpo"}
    assert parents(chain, "grpo", "stages.grpo.train.beta=0") == {"parent": "dpo"}


def test_the_naive_baseline_has_no_hooks_and_its_own_name(chain: Any) -> None:
    plan = chain.plan("baseline=naive")
    assert plan.name == "tiny-naive"
    assert not any(node.hooks for node in plan.nodes)
    assert [key for key, _ in chain.plan().node("sft").hooks] == ["kl", "replay"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["stages.dpo.from=[base, sft]"], ["dpo.yaml", "from: ", "one stage, not 2"]),
        (["stages.sft.hooks=[lora, lora]"], ["hooks: lora and lora both change what is trained"]),
        (["stages.sft.hooks=[ema, ema]"], ["hooks: ema is listed twice"]),
        (
            ["stages.sft.hooks=[{replay: {share: 0.5}}, {replay: {of: pretrain, share: 0.6}}]"],
            ["replay shares sum to 1.1"],
        ),
        (
            ["stages.sft.hooks=[replay, {replay: {unit: samples}}]"],
            ["replay entries count in different units"],
        ),
        (["stages.sft.hooks=[{kl: {of: pretran}}]"], ["'pretran' is no stage", "'pretrain'?"]),
        (["stages.sft.hooks=[{kl: {of: dpo}}]"], ["'dpo' is no stage before this one"]),
        (
            ["stages.dpo.from=base", "stages.dpo.hooks=[{kl: {of: sft}}]"],
            ["'sft' is no stage before this one"],
        ),
        (["stages.pretrain.hooks=[replay]"], ["the base model left no rows", "source: "]),
        (["stages.pretrain.hooks=[{replay: {of: all}}]"], ["the base model left no rows"]),
        (
            ["stages.dpo.hooks=[{replay: {of: sft}}]"],
            ["hooks.replay: sft left messages rows, and a dpo stage trains on preference"],
        ),
        (
            ["stages.grpo.hooks=[{replay: {of: all}}]"],
            ["hooks.replay: pretrain left text rows, and a grpo stage trains on prompt"],
        ),
        (
            ["stages.grpo.reference=base", "stages.grpo.train.beta=0"],
            ["reference: 'base' is unused"],
        ),
        (["stages.grpo.train.num_generations=3"], ["train.batch_size", "num_generations (3)", "8"]),
        (["stages.grpo.rewards=[]"], ["rewards is missing"]),
        (["stages.pretrain.train.packing=false"], ["train.packing: a pretrain stage always packs"]),
    ],
)
def test_conflicts_are_refused_with_a_way_out(
    chain: Any, refused: Refused, changes: list[str], parts: list[str]
) -> None:
    message = refused(chain.plan, *changes)
    assert len(message.splitlines()) == 1, message
    for part in parts:
        assert part in message


def test_one_stages_mistake_makes_none_in_later_stages(chain: Any, refused: Refused) -> None:
    chain.stages["dpo"]["hooks"] = [{"kl": {"of": "pretrain"}}, {"kl": {"of": "sft"}}]
    chain.stages["dpo"]["from"] = "sft"
    chain.stages["grpo"]["hooks"] = [{"kl": {"of": "pretrain"}}]
    lines = refused(chain.plan, "stages.sft.kind=stf").splitlines()
    assert len(lines) == 1
    assert "no stage kind 'stf'" in lines[0]


def test_a_backend_that_does_not_give_what_a_hook_needs_is_refused(chain: Any) -> None:
    from cpt.conflicts import check_hooks
    from cpt.plan import make
    from stages import kind_of
    from stages.trl_fields import check_train

    class Poor:
        name = "poor"
        gives: frozenset[str] = frozenset()

        def refusal(self, need: str) -> str:
            return f"poor gives no {need}; use single"

    with pytest.raises(PlanError) as failed:
        make(chain.load(), kind_of, check_train, Poor())
    assert str(failed.value) == (
        f"{chain.folder / 'sft.yaml'}: hooks.kl: poor gives no logits; use single"
    )
    check_hooks([], chain.load().stages["sft"], kind_of("sft", "x"), Poor(), "x", [])


def test_a_kl_beside_the_stages_own_warns(chain: Any) -> None:
    chain.stages["dpo"]["hooks"] = ["kl"]
    (warning,) = chain.plan().warnings
    assert warning.startswith(f"{chain.folder / 'dpo.yaml'}: kl and dpo's own beta 0.1 ")
    assert chain.plan("stages.dpo.train.beta=0").warnings == ()


def test_the_table_shows_ids_hooks_and_status(chain: Any) -> None:
    plan = chain.plan("stages.sft.hooks=[ema, kl, replay, lora]")
    store = Store(chain.folder / "runs")
    store.partial(plan.node("sft").id).mkdir(parents=True)
    lines = table_of(plan, store, None, 3, "ddp x 2").splitlines()
    assert lines[0].split("   ")[:5] == [
        "chain tiny",
        "seed 17",
        "4 stages, 5 x 3 probes",
        "ddp x 2",
        str(store.chain("tiny")),
    ]
    assert lines[1].split() == ["stage", "id", *COLUMNS, "status"]
    assert lines[4].split() == [
        "2",
        "sft",
        plan.node("sft").id,
        "replay",
        "lora",
        "kl",
        "ema",
        "lora",
        "interrupted",
    ]
    assert lines[5].endswith("to do")
