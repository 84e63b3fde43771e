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
