"""Which fields of `train:` an id leaves out."""

from typing import Any

import pytest

from cpt.stage_id import TRAINS_NOTHING
from stages.trl_fields import fields
from stages.trl_rules import RUNNER_OWNED


@pytest.mark.parametrize(
    "change",
    [
        "stages.sft.train.dataloader_num_workers=2",
        "stages.dpo.train.dataset_num_proc=2",
        "stages.grpo.train.log_unique_prompts=true",
        "stages.grpo.train.num_completions_to_print=3",
        "stages.grpo.train.num_generations_eval=4",
    ],
)
def test_what_trains_nothing_keeps_the_ids(chain: Any, change: str) -> None:
    assert chain.ids(change) == chain.ids()


def test_all_of_them_can_be_written() -> None:
    known = {name for config in ("SFTConfig", "DPOConfig", "GRPOConfig") for name in fields(config)}
    assert {*TRAINS_NOTHING} <= known - RUNNER_OWNED.keys()


def test_settings_that_came_later_leave_the_ids_of_stages_that_do_not_use_them(chain: Any) -> None:
    before = chain.ids()
    same = ("stages.sft.exemplars=1000", "stages.sft.hygiene={probes: refuse}")
    chain.chain["probes"] = "suite.yaml"
    assert chain.ids(*same) == chain.ids("stages.sft.hygiene={probes: keep}") == before


@pytest.mark.parametrize("change", ["exemplars=50", "hygiene.duplicates=exact"])
def test_rows_that_are_left_or_left_out_are_another_stage(chain: Any, change: str) -> None:
    before, after = chain.ids(), chain.ids(f"stages.sft.{change}")
    assert before["pretrain"] == after["pretrain"]
    assert before["sft"] != after["sft"]
    assert before["dpo"] != after["dpo"]


def test_only_a_stage_that_drops_items_of_probes_depends_on_the_suite(chain: Any) -> None:
    from cpt import plan
    from stages import kind_of
    from stages.trl_fields import check_train

    chain.chain["probes"] = "suite.yaml"

    def ids(suite_hash: str, *changes: str) -> list[str]:
        made = plan.make(chain.load(*changes), kind_of, check_train, suite_hash)
        return [node.id for node in made.nodes]

    assert ids("one") == ids("other")
    drop = "stages.sft.hygiene.probes=drop"
    assert ids("one", drop)[:2] == ids("other", drop)[:2]
    assert ids("one", drop)[2] != ids("other", drop)[2]
