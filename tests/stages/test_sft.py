"""Supervised fine-tuning: which tokens are in the loss, and what its mean runs over."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt.checkpoint import load_tokenizer
from stages import kind_of
from stages.sft import SFT
from tests.tiny_stages import TinyStages, difference, first_rows, log_probabilities


def negative_log_likelihoods(stages: TinyStages, row: dict[str, Any]) -> list[float]:
    """Of each label token of a row, from the sft stage's own weights, alone and without padding."""
    log_p = log_probabilities(stages.sft.output, row["input_ids"])
    return [
        -float(log_p[place - 1, label])
        for place, label in enumerate(row["labels"])
        if label != -100 and place > 0
    ]


@pytest.mark.parametrize("assistant_only", [True, False])
@pytest.mark.parametrize("micro_batch", [8, 2])
def test_loss_is_the_mean_over_the_steps_label_tokens(
    micro_batch: int, assistant_only: bool, stages: TinyStages
) -> None:
    job = stages.job(
        "sft", micro_batch=micro_batch, max_steps=1, assistant_only_loss=assistant_only
    )
    values = [negative_log_likelihoods(stages, row) for row in first_rows(stages, job)]
    assert len({len(part) for part in values}) > 3  # else a mean of means would pass
    flat = [value for part in values for value in part]
    assert stages.train(job).log[0]["loss"] == pytest.approx(sum(flat) / len(flat), rel=1e-5)


def test_labels_are_what_the_assistant_says_with_its_eos(stages: TinyStages) -> None:
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    for row in first_rows(stages, stages.job("sft")):
        said = tokenizer.decode([label for label in row["labels"] if label != -100])
        chat = tokenizer.decode(row["input_ids"])
        assert said.endswith("<|im_end|>")
        assert chat.endswith(f"<|im_start|>assistant\n{said}\n")


def test_with_the_setting_off_everything_is_a_label(stages: TinyStages) -> None:
    for row in first_rows(stages, stages.job("sft", assistant_only_loss=False)):
        assert row["labels"] == row["input_ids"]


def test_loss_mask_counts_the_positions_before_labels() -> None:
    labels = torch.tensor([[-100, -100, 5, 6, -100], [7, 8, -100, -100, 9]])
    mask = kind_of("sft", "").loss_mask({"labels": labels}, {})
    assert mask.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0]]


def test_packed_conversations_train_like_unpacked_ones(stages: TinyStages) -> None:
    """No conversation sees another one that shares its row."""
    hooks = {"kl": {"of": "base", "beta": 0.5}}
    whole: dict[str, Any] = {"max_steps": 1, "batch_size": 24, "max_length": 96}
    plain = stages.train(stages.job("sft", hooks, **whole, micro_batch=24))
    packed_job = stages.job("sft", hooks, **{**whole, "batch_size": 1}, packing=True)
    rows = first_rows(stages, packed_job)
    # One row of the packed stage against the same conversations, unpacked.
    num = len(rows[0]["seq_lengths"])
    assert num > 1
    same = stages.job("sft", hooks, **{**whole, "batch_size": num})
    assert [ids for row in first_rows(stages, same) for ids in row["input_ids"]] == rows[0][
        "input_ids"
    ]
    one, other = stages.train(packed_job), stages.train(same)
    assert one.log[0]["loss"] == pytest.approx(other.log[0]["loss"], rel=1e-5)
    assert one.log[0]["hook/kl"] == pytest.approx(other.log[0]["hook/kl"], rel=1e-5)
    assert difference(one.weights, other.weights) < 2e-6
    assert plain.log


def test_rows_are_trained_in_the_order_of_the_stream(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    mask = SFT.loss_mask

    def watch(self: SFT, inputs: Any, forward: Any) -> Any:
        if forward is not inputs:  # not the count before the step
            for ids, attended in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
                seen.append(ids[attended.bool()].tolist())
        return mask(self, inputs, forward)

    monkeypatch.setattr(SFT, "loss_mask", watch)
    job = stages.job("sft", {"kl": {"of": "base"}}, max_steps=1, micro_batch=4)
    expected = [row["input_ids"] for row in first_rows(stages, job)]
    stages.train(job)
    assert seen == expected


def test_prompts_end_where_the_assistant_is_to_speak(stages: TinyStages) -> None:
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    (prompt,) = kind_of("sft", "").prompts([{"messages": chat}, {"text": "no chat"}], tokenizer, 3)
    assert tokenizer.decode(prompt).endswith("1+1?<|im_end|>\n<|im_start|>assistant\n")
    rows: list[Any] = [
        {"prompt": chat[:1], "completion": chat[1:]},
        {"prompt": "1+1=", "completion": "2"},
        {"messages": chat},
    ]
    found = kind_of("sft", "").prompts(rows, tokenizer, 2)
    assert found == [prompt, tokenizer("1+1=")["input_ids"]]


@pytest.mark.parametrize("as_chat", [True, False])
def test_completions_train_with_the_loss_on_them_only(
    as_chat: bool, stages: TinyStages, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n}+1=", "completion": f"{n + 1}" + "!" * (n % 5)} for n in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(tmp_path / "a.jsonl"), "as_chat": as_chat}
    job = stages.job("sft", data=data, max_steps=1)
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    first = first_rows(stages, job)
    said = {tokenizer.decode([label for label in r["labels"] if label != -100]) for r in first}
    assert said == {f"{row['completion']}<|im_end|>" for row in rows}
    values = [negative_log_likelihoods(stages, row) for row in first]
    flat = [value for part in values for value in part]
    assert stages.train(job).log[0]["loss"] == pytest.approx(sum(flat) / len(flat), rel=1e-5)
