"""`train:` is checked as TRL would check it, without TRL."""

import dataclasses
import json
import re
from typing import Any

import pytest

from cpt.errors import RecipeError
from stages import trl_table
from stages.trl_fields import check_train, fields, train_schema
from stages.trl_rules import BOUNDS, FORMER, RUNNER_OWNED

FILE = "recipes/quickstart/sft.yaml"


def refusal(config: str, **train: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        check_train(config, train, FILE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"learning_rat": 1e-5},
            "train: SFTConfig has no 'learning_rat'; did you mean 'learning_rate'?",
        ),
        ({"xyz": 1}, "train: SFTConfig has no 'xyz'; `cpt schema` lists what it has"),
        ({"learning_rate": "fast"}, "train.learning_rate: must be a number, not 'fast'"),
        ({"learning_rate": None}, "train.learning_rate: must be a number, not null"),
        ({"learning_rate": True}, "train.learning_rate: must be a number, not true"),
        ({"learning_rate": float("nan")}, "train.learning_rate: must be a number, not nan"),
        ({"learning_rate": -1}, "train.learning_rate: must lie in [0, inf), not -1.0"),
        ({"adam_beta2": 1}, "train.adam_beta2: must lie in [0, 1), not 1.0"),
        ({"max_steps": 2.5}, "train.max_steps: must be a whole number, not 2.5"),
        ({"max_steps": 0}, "train.max_steps: must be positive, or -1 for all epochs, not 0"),
        ({"max_length": "long"}, "train.max_length: must be a whole number or null, not 'long'"),
        ({"packing": "yes"}, "train.packing: must be true or false, not 'yes'"),
        ({"lr_scheduler_type": "cosin"}, "has no choice 'cosin'; did you mean 'cosine'?"),
        ({"batch_size": 0}, "train.batch_size: must lie in [1, inf), not 0"),
        ({"warmup_ratio": 0.1}, "SFTConfig has no 'warmup_ratio' any more; write warmup_steps"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16 cannot both be true"),
        ({"report_to": "wandb"}, "train.report_to: belongs to the runner; write `trackers`"),
    ],
)
def test_a_mistake_is_named_with_the_right_word(train: dict[str, Any], message: str) -> None:
    assert message in refusal("SFTConfig", **train)


def test_all_problems_of_a_stage_come_at_once_with_the_file() -> None:
    lines = refusal("SFTConfig", seed=1, learning_rat=1, packing=3).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{FILE}: train") for line in lines)


def test_values_get_the_types_that_trl_expects() -> None:
    checked = check_train(
        "DPOConfig",
        {"learning_rate": 1, "max_steps": 1e3, "loss_type": "ipo", "loss_weights": [1]},
        FILE,
    )
    assert checked == {
        "batch_size": 8,
        "learning_rate": 1.0,
        "max_steps": 1000,
        "loss_type": ["ipo"],
        "loss_weights": [1.0],
    }
    assert isinstance(checked["learning_rate"], float)
    assert isinstance(checked["max_steps"], int)
    assert check_train("SFTConfig", {"optim_target_modules": "all-linear"}, FILE) == {
        "batch_size": 8,
        "optim_target_modules": "all-linear",
    }


def test_what_was_checked_passes_again() -> None:
    checked = check_train("GRPOConfig", {"num_generations": 4, "max_steps": 3}, FILE)
    assert check_train("GRPOConfig", checked, FILE) == checked


def test_loss_weights_fit_the_losses() -> None:
    message = refusal("DPOConfig", loss_type=["sigmoid", "sft"], loss_weights=[1.0])
    assert "train.loss_weights: must have one number for each of ['sigmoid', 'sft']" in message


def test_a_rollout_holds_whole_groups_and_whole_steps() -> None:
    check_train("GRPOConfig", {"batch_size": 12, "num_generations": 4}, FILE)
    message = refusal("GRPOConfig", batch_size=12, num_generations=8)
    assert "train.batch_size: counts completions, in whole groups of num_generations (8)" in message
    message = refusal("GRPOConfig", batch_size=8, generation_batch_size=12, num_generations=4)
    assert "train.generation_batch_size: must be a multiple of batch_size (8), not 12" in message


@pytest.mark.parametrize("config", trl_table.CONFIGS)
def test_the_schema_has_what_a_recipe_may_say(config: str) -> None:
    schema = train_schema(config)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["learning_rate"]["type"] == "number"
    assert schema["properties"]["batch_size"]["type"] == "integer"
    assert not schema["properties"].keys() & RUNNER_OWNED.keys()
    json.dumps(schema)


def test_our_rules_name_fields_that_exist() -> None:
    known = set().union(*(fields(config) for config in trl_table.CONFIGS))
    assert {name.rpartition(".")[2] for name in BOUNDS} <= known
    # Three names that TRL had, or that people expect.
    assert RUNNER_OWNED.keys() - known == {"no_cuda", "logging_dir", "group_by_length"}
    assert not FORMER.keys() & known


def test_every_default_is_acceptable() -> None:
    """A bound or a type that TRL's own default violates would be ours that is wrong."""
    for config in trl_table.CONFIGS:
        defaults = {
            name: entry["default"]
            for name, entry in fields(config).items()
            if name not in RUNNER_OWNED and name != "gradient_checkpointing"
        }
        check_train(config, defaults, config)


class TestAgainstInstalledTrl:
    def test_the_shipped_table_is_what_trl_has(self) -> None:
        assert trl_table.TABLE.read_text() == trl_table.text(), "run python -m stages.trl_table"

    @pytest.mark.parametrize(("config", "field"), trl_table.PROSE_CHOICES)
    def test_choices_from_prose_stand_in_its_help(self, config: str, field: str) -> None:
        import trl

        (found,) = (f for f in dataclasses.fields(getattr(trl, config)) if f.name == field)
        words = set(re.findall(r"\w+", found.metadata["help"]))
        assert set(trl_table.PROSE_CHOICES[config, field]) <= words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "cosine_with_min_lr needs min_lr, or min_lr_rate as a share of learning_rate"),
        ({"min_lr": 1e-6, "min_lr_rate": 0.1}, "needs min_lr, or min_lr_rate"),
        ({"min_lr_rat": 0.1}, "has no 'min_lr_rat'; did you mean 'min_lr_rate'?"),
    ],
)
def test_a_schedule_with_a_floor_has_one(given: Any, words: str) -> None:
    train = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": given}
    with pytest.raises(RecipeError, match=re.escape(words)):
        check_train("SFTConfig", train, "pretrain.yaml")
    right = train | {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    assert check_train("SFTConfig", right, "x")["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
