"""Rehearsal: exact shares, each source under its own format, nothing without rows."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cpt.data_spec import DataSpec
from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.base import Mixture, StageContext
from cpt.hooks.replay import Replay
from cpt.hooks.stack import HookStack
from cpt.past import of_folder
from cpt.world import World
from stages import kind_of
from stages.material import supply
from tests.tiny_stages import TinyStages

OLD = [{"text": "old"}]


def ctx(kind: str) -> StageContext:
    return StageContext(kind, kind, kind_of(kind, "").formats, 5, World(), "")


def supplied(stages: TinyStages, job: Any, tokenizer: Any) -> Any:
    """What a job would train on."""
    hooks = [table.build(hook.name, dict(hook.settings), "") for hook in job.spec.hooks]
    stack = HookStack(hooks, ctx(job.spec.kind))
    stack.recall(of_folder(stages.sft.output))
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays until it is let go
        kind = kind_of(job.spec.kind, "")
        return supply(kind, job.spec, job.seed, stack, tokenizer, Path(folder))


def decoded(row: dict[str, Any], tokenizer: Any, only_labels: bool = False) -> str:
    ids = [
        token
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
        if label != -100 or not only_labels
    ]
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize("unit", ["tokens", "samples"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_share_is_of_the_final_stream_to_one_row(
    share: float, unit: str, stages: TinyStages, tiny_tokenizer: Any
) -> None:
    hook = {"replay": {"of": "pretrain", "share": share, "unit": unit}}
    job = stages.job("sft", hook, max_steps=40)
    rows = supplied(stages, job, tiny_tokenizer).train
    old = [decoded(row, tiny_tokenizer).find("<|im_start|>") < 0 for row in rows]
    amounts = [len(row["input_ids"]) if unit == "tokens" else 1 for row in rows]
    given = sum(amount for amount, is_old in zip(amounts, old, strict=True) if is_old)
    assert abs(given - share * sum(amounts)) <= max(amounts)
    # Also of every part of the stream from its start, so that a stage that ends early kept its share.
    for end in (8, 40, 160):
        part = sum(a for a, is_old in zip(amounts[:end], old[:end], strict=True) if is_old)
        assert abs(part - share * sum(amounts[:end])) <= max(amounts)


def test_shares_of_several_entries_are_exact_too(stages: TinyStages, tiny_tokenizer: Any) -> None:
    hooks = [
        {"replay": {"of": "pretrain", "share": 0.2}},
        {"replay": {"source": stages.data("talks"), "share": 0.3}},
    ]
    supply = supplied(stages, stages.job("sft", hooks, max_steps=40), tiny_tokenizer)
    entries = {entry["name"]: entry for entry in supply.description}
    assert entries["chats.jsonl"]["share"] == pytest.approx(0.5, abs=0.01)
    assert entries["replay of pretrain"]["share"] == pytest.approx(0.2, abs=0.01)
    assert entries["replay of talks.jsonl"]["share"] == pytest.approx(0.3, abs=0.01)


def test_every_old_row_is_seen_once_before_any_is_seen_again(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    hook = {"replay": {"source": stages.data("talks"), "share": 0.5, "unit": "samples"}}
    supply = supplied(stages, stages.job("sft", hook, max_steps=12), tiny_tokenizer)
    talks = [text for row in supply.train if "Hello" in (text := decoded(row, tiny_tokenizer))]
    assert len(talks) == 48
    assert len(set(talks[:24])) == len(set(talks[24:])) == 24
    assert talks[:24] != talks[24:]


def test_each_source_is_tokenised_under_its_own_format(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    """Documents keep all their labels and end with EOS; chats only what the assistant says."""
    job = stages.job("sft", {"replay": {"of": "pretrain", "share": 0.5}}, max_steps=4)
    rows = supplied(stages, job, tiny_tokenizer).train
    texts = [row for row in rows if "make" in decoded(row, tiny_tokenizer)]
    chats = [row for row in rows if "make" not in decoded(row, tiny_tokenizer)]
    assert texts
    assert chats
    for row in texts:
        assert row["labels"] == row["input_ids"]
        assert len(row["input_ids"]) == 96 or row["input_ids"][-1] == tiny_tokenizer.eos_token_id
    for row in chats:
        answer = decoded(row, tiny_tokenizer, only_labels=True)
        assert answer.endswith("<|im_end|>")
        assert "user" not in answer


def test_new_rows_come_in_the_order_they_have_without_replay(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    plain = supplied(stages, stages.job("sft"), tiny_tokenizer).train
    mixed = supplied(
        stages, stages.job("sft", {"replay": {"of": "pretrain", "share": 0.25}}), tiny_tokenizer
    ).train
    new = [row["input_ids"] for row in mixed if "make" not in decoded(row, tiny_tokenizer)]
    assert new == [row["input_ids"] for row in plain][: len(new)]


def test_no_new_row_is_lost_for_the_sake_of_old_ones(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    hook = {"replay": {"of": "pretrain", "share": 0.4}}
    job = stages.job("sft", hook, max_steps=-1, num_train_epochs=1)
    supply = supplied(stages, job, tiny_tokenizer)
    chats = {decoded(row, tiny_tokenizer) for row in supply.train} - {
        decoded(row, tiny_tokenizer)
        for row in supply.train
        if "make" in decoded(row, tiny_tokenizer)
    }
    assert len(chats) == 24


def test_exemplars_are_new_rows_only(stages: TinyStages) -> None:
    trained = stages.train(stages.job("sft", {"replay": {"of": "pretrain", "share": 0.5}}))
    lines = (trained.job.output / "exemplars.jsonl").read_text().splitlines()
    assert lines
    assert all("messages" in json.loads(line) for line in lines)


def test_preference_pairs_are_replayed_in_a_dpo_stage(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    job = stages.job("dpo", {"replay": {"source": stages.data("duels"), "share": 0.5}})
    rows = supplied(stages, job, tiny_tokenizer).train
    old = sum(row["prompt"][0]["content"].startswith("Name") for row in rows)
    assert 0 < old < len(rows)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"share": 1.0}, "share: input should be less than 1"),
            ({"share": -0.1}, "share: input should be greater than or equal to 0"),
            ({"share": float("nan")}, "share: input should be less than 1"),
            ({"unit": "rows"}, "unit: input should be 'tokens' or 'samples'"),
            ({"of": "sft", "source": {"path": "./x.jsonl"}}, "name either `of`"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            table.build("replay", settings, "sft.yaml")

    def test_the_base_model_has_nothing_to_rehearse(self, stages: TinyStages) -> None:
        with pytest.raises(HookError, match=r"no exemplars there; name a `source:` instead"):
            Replay(of="base").recall(of_folder(stages.sft.output), ctx("sft"))

    def test_share_0_asks_for_nothing(self, stages: TinyStages) -> None:
        hook = Replay(of="base", share=0)
        hook.recall(of_folder(stages.sft.output), ctx("sft"))
        assert hook.mix(Mixture([]), ctx("sft")).old == []

    @pytest.mark.parametrize(
        ("kind", "of", "format_"), [("dpo", "sft", "messages"), ("grpo", "pretrain", "text")]
    )
    def test_rows_that_the_stage_cannot_train_on(
        self, kind: str, of: str, format_: str, stages: TinyStages
    ) -> None:
        with pytest.raises(HookError, match=f"cannot mix in {format_} rows; name a `source:`"):
            Replay(of=of).recall(of_folder(stages.sft.output), ctx(kind))

    def test_a_source_of_another_format(self, stages: TinyStages) -> None:
        source = DataSpec.model_validate(stages.data("texts"))
        with pytest.raises(Exception, match=r"rows have the format 'text'.*this stage takes pref"):
            Replay(source=source).mix(Mixture([]), ctx("dpo"))

    def test_a_stage_that_is_not_there(self, stages: TinyStages) -> None:
        with pytest.raises(HookError, match=r"no earlier stage 'sftt'; did you mean 'sft'"):
            Replay(of="sftt").recall(of_folder(stages.sft.output), ctx("sft"))

    def test_shares_that_leave_nothing(self, stages: TinyStages) -> None:
        hooks = [
            {"replay": {"of": "pretrain", "share": 0.5}},
            {"replay": {"of": "sft", "share": 0.5}},
        ]
        with pytest.raises(Exception, match=r"replay shares sum to 1; they must leave something"):
            stages.train(stages.job("sft", hooks))

    def test_two_units(self, stages: TinyStages) -> None:
        hooks = [
            {"replay": {"of": "pretrain", "share": 0.2, "unit": "samples"}},
            {"replay": {"of": "sft", "share": 0.2}},
        ]
        with pytest.raises(Exception, match=r"count in one unit"):
            stages.train(stages.job("sft", hooks))
