"""Continual pretraining: full rows, EOS between documents, and documents that do not see each other."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from cpt.checkpoint import load_tokenizer
from cpt.errors import DataError, RecipeError
from cpt.yaml12 import load
from stages import kind_of
from tests.tiny_stages import TinyStages, first_rows, log_probabilities

RECIPE = Path(__file__).parents[2] / "recipes" / "continual-pretraining"


def pieces(row: dict[str, Any]) -> list[list[int]]:
    """The documents of a packed row, cut ones too."""
    parts, start = [], 0
    for length in row["seq_lengths"]:
        parts.append(row["input_ids"][start : start + length])
        start += length
    return parts


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_loss_is_the_mean_over_documents_that_do_not_see_each_other(
    micro_batch: int, stages: TinyStages
) -> None:
    job = stages.job("pretrain", max_steps=1, micro_batch=micro_batch)
    rows = first_rows(stages, job)
    assert any(len(row["seq_lengths"]) > 1 for row in rows)
    values = []
    for piece in (piece for row in rows for piece in pieces(row) if len(piece) > 1):
        log_p = log_probabilities(stages.sft.output, piece)
        values += [-float(log_p[place, token]) for place, token in enumerate(piece[1:])]
    expected = sum(values) / len(values)
    assert stages.train(job).log[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_rows_are_full_and_no_token_is_lost(stages: TinyStages) -> None:
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    rows = first_rows(stages, stages.job("pretrain", max_steps=1))
    assert all(len(row["input_ids"]) == 64 for row in rows)
    assert all(row["labels"] == row["input_ids"] for row in rows)
    text = tokenizer.decode([token for row in rows for token in row["input_ids"]])
    documents = text.split("<|im_end|>")
    known = [f"{n} and {n + 1} make {2 * n + 1}. " * (1 + n % 4) for n in range(24)]
    assert len(documents) > 3
    assert all(document in known for document in documents[:-1])
    assert any(one.startswith(documents[-1]) for one in known)


def test_an_epoch_ends_and_sees_every_document(stages: TinyStages) -> None:
    job = stages.job("pretrain", max_steps=-1, num_train_epochs=1)
    trained = stages.train(job)
    (entry,) = trained.manifest["data"]
    assert entry["epochs"] >= 1
    steps = trained.manifest["num_steps"]
    assert steps == len([row for row in trained.log if "loss" in row])
    # Not a step more than the documents need.
    assert (steps - 1) * 8 * 64 < entry["tokens"] <= steps * 8 * 64


def test_replayed_chats_are_documents_too(stages: TinyStages, tiny_tokenizer: Any) -> None:
    encoded = kind_of("pretrain", "").encode(
        [{"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}]}],
        tiny_tokenizer,
        stages.job("pretrain").spec,
    )
    (row,) = encoded.rows
    assert row["labels"] == row["input_ids"]
    assert tiny_tokenizer.decode(row["input_ids"]).startswith("<|im_start|>user")


def test_chats_are_no_data_for_it(stages: TinyStages) -> None:
    words = r"rows have the format 'messages'.* takes text; train on answers with kind: sft"
    with pytest.raises(DataError, match=words):
        stages.train(stages.job("pretrain", data=stages.data("chats"), max_steps=1))


def test_texts_that_a_chat_template_wrote_are_refused(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    kind, spec = kind_of("pretrain", ""), stages.job("pretrain").spec
    plain = [{"text": f"number {n}"} for n in range(9)]
    templated = {"text": "<|im_start|>user\nHi<|im_end|>\n"}
    # One in ten may be about templates.
    assert len(kind.encode([*plain, templated], tiny_tokenizer, spec).rows) == 10
    with pytest.raises(DataError, match=r"2 of 11 texts hold marks of the chat template, such as"):
        kind.encode([*plain, templated, templated], tiny_tokenizer, spec)
    # What else a row holds does not matter where it has a text.
    both = kind.encode([{"text": "a", "messages": []}], tiny_tokenizer, spec)
    assert both.num_tokens == [2]


def test_documents_need_an_end(stages: TinyStages, tiny_tokenizer: Any) -> None:
    endless = copy.deepcopy(tiny_tokenizer)
    endless.eos_token = None
    with pytest.raises(DataError, match="has no EOS, and packed documents would run into one"):
        kind_of("pretrain", "").encode([{"text": "a"}], endless, stages.job("pretrain").spec)


def test_the_rate_warms_up_again_and_falls_to_a_tenth(stages: TinyStages) -> None:
    train = load(RECIPE / "domain.yaml")["train"] | {"max_length": 64, "warmup_steps": 0.25}
    peak, trained = train["learning_rate"], stages.train(stages.job("pretrain", **train))
    # Two of eight steps from 0 to the peak, then a half cosine down to 0.1 of it.
    fall = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    expected = [peak * factor for factor in [0, 0.5, *fall]]
    rates = [row["learning_rate"] for row in trained.log if "loss" in row]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("field", ["packing", "assistant_only_loss"])
def test_packing_cannot_be_turned_off(field: str, stages: TinyStages) -> None:
    off: dict[str, Any] = {field: False}
    spec = stages.job("pretrain", **off).spec
    with pytest.raises(RecipeError, match=f"train.{field}: a pretrain stage always packs"):
        kind_of("pretrain", "").check(spec, "pretrain.yaml")
