"""`baseline: joint`: who is joined with whom, from where, for how many steps, and what is refused."""

from typing import Any

import pytest

from cpt import plan
from cpt.errors import PlanError
from stages import kind_of
from stages.trl_fields import check_train

STEPS = [
    "stages.pretrain.train.max_steps=6",
    "stages.pretrain.train.batch_size=4",
    "stages.sft.train.max_steps=5",
]


def test_it_is_chosen_by_one_word_and_has_its_own_name_and_no_hooks(chain: Any) -> None:
    plan = chain.plan("baseline=joint")
    assert plan.name == "tiny-joint"
    assert not any(node.hooks for node in plan.nodes)


def test_stages_on_labelled_text_start_from_the_base_model_with_all_such_data(chain: Any) -> None:
    plan = chain.plan("baseline=joint")
    base = plan.node("base").id
    assert plan.node("pretrain").parents == plan.node("sft").parents == {"parent": base}
    joined = [each.name for each in plan.node("sft").joined]
    assert joined == ["pretrain", "sft"]
    assert [each["kind"] for each in plan.node("sft").inputs["joined"]] == joined
    # Preference and RL stages go on from there with their own data.
    sft, dpo = plan.node("sft").id, plan.node("dpo")
    assert dpo.parents == {"parent": sft, "reference": sft}
    assert (dpo.joined, plan.node("grpo").parents["parent"]) == ((), dpo.id)
    assert "joined" not in dpo.inputs


def test_the_first_stage_is_that_of_the_naive_chain(chain: Any) -> None:
    naive, joint = chain.ids("baseline=naive"), chain.ids("baseline=joint")
    assert [name for name in naive if naive[name] == joint[name]] == ["base", "pretrain"]


def test_what_an_earlier_stage_trains_on_is_part_of_the_id(chain: Any) -> None:
    before = chain.ids("baseline=joint")
    for change in (
        "stages.pretrain.train.max_steps=3",
        "stages.pretrain.train.batch_size=2",
        "stages.pretrain.seed=3",
        "stages.pretrain.hygiene={duplicates: near}",
        "stages.pretrain.exemplars=7",
    ):
        assert chain.ids("baseline=joint", change)["sft"] != before["sft"]
    # Hooks are off, and only the joint stage's own rate counts where it trains.
    assert chain.ids("baseline=joint", "stages.sft.hooks=[]")["sft"] == before["sft"]


def test_the_probes_whose_items_an_earlier_stage_drops_are_part_of_the_id(chain: Any) -> None:
    chain.chain["probes"] = "suite.yaml"
    drops = "stages.pretrain.hygiene={probes: drop}"

    def sft(suite: str, *changes: str) -> str:
        recipe = chain.load("baseline=joint", *changes)
        return plan.make(recipe, kind_of, check_train, suite).node("sft").id

    assert sft("one") == sft("two")
    assert len({sft("one"), sft("one", drops), sft("two", drops)}) == 3


def test_equal_batches_have_the_sum_of_the_steps(chain: Any) -> None:
    train = chain.plan("baseline=joint", *STEPS).node("sft").spec.train
    assert train["max_steps"] == 6 + 5
    wider = chain.plan("baseline=joint", *STEPS, "stages.pretrain.train.batch_size=8")
    assert wider.node("sft").spec.train["max_steps"] == (6 * 8 + 5 * 4) // 4
    # Epochs: only the data tell.
    assert "max_steps" not in chain.plan("baseline=joint").node("sft").spec.train


def test_settings_of_the_joined_stage_are_its_own(chain: Any) -> None:
    node = chain.plan("baseline=joint", *STEPS).node("sft")
    pretrain, sft = node.joined
    assert (pretrain.spec.train["max_steps"], sft.spec.train["max_steps"]) == (6, 5)
    assert node.spec.train["learning_rate"] == 1e-5
    seeded = chain.plan("baseline=joint", "stages.pretrain.seed=3").node("sft").joined
    assert [each.seed for each in seeded] == [3, 17]


def test_a_stage_behind_a_preference_stage_says_what_it_leaves_out(chain: Any) -> None:
    chain.chain["stages"] = {"sft": "sft.yaml", "dpo": "dpo.yaml", "again": "sft.yaml"}
    chain.stages["sft"].pop("hooks")
    plan = chain.plan("baseline=joint")
    assert [each.name for each in plan.node("again").joined] == ["sft", "again"]
    assert plan.node("again").parents == {"parent": plan.node("base").id}
    (warning,) = [text for text in plan.warnings if "joint" in text]
    assert "starts from the base model, without what dpo made" in warning


def test_a_branch_joins_its_own_line_only(chain: Any) -> None:
    plan = chain.plan("baseline=joint", "stages.sft.from=base", "stages.sft.hooks=[]")
    assert [each.name for each in plan.node("sft").joined] == ["sft"]
    assert "joined" not in plan.node("sft").inputs


def test_what_cannot_be_joined_is_refused(chain: Any, tmp_path: Any) -> None:
    with pytest.raises(PlanError, match=r"loss_type differs \(pretrain dft, sft nll\), and one"):
        chain.plan("baseline=joint", "stages.pretrain.train.loss_type=dft")
    chain.plan("baseline=joint", "stages.pretrain.train.loss_type=chunked_nll")
    changes = []
    for name in ("pretrain", "sft"):
        (tmp_path / f"{name}.jinja").write_text(name)
        changes.append(f"stages.{name}.model={{chat_template: {tmp_path / name}.jinja}}")
    with pytest.raises(PlanError, match="pretrain and sft have different chat templates"):
        chain.plan("baseline=joint", *changes)


def test_changes_of_the_tokenizer_are_added_up(chain: Any) -> None:
    spec = (
        chain.plan(
            "baseline=joint",
            "stages.pretrain.model={add_tokens: ['<a>', '<b>']}",
            "stages.sft.model={add_tokens: ['<b>', '<c>']}",
        )
        .node("sft")
        .spec
    )
    assert spec.model.add_tokens == ["<a>", "<b>", "<c>"]
