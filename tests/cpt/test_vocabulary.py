"""What tokens change of a model's shapes, against what `apply_change` does."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpt.model_source import apply_change
from cpt.model_spec import ModelChange, ModelSpec
from cpt.vocabulary import Vocabulary, of_model


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    "added", [[], ["<a>"], ["<|im_end|>"], ["<a>", "<b>", "<a>"], ["<a>", "<b>", "<c>", "<d>"]]
)
def test_growth_is_what_apply_change_appends(
    padding: int, added: list[str], tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import copy

    model, tokenizer = copy.deepcopy(tiny_model), copy.deepcopy(tiny_tokenizer)
    model.resize_token_embeddings(len(tokenizer) + padding, mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before = model.get_input_embeddings().weight.shape[0]
    found = of_model(ModelSpec(path=str(tmp_path)))
    assert found is not None
    apply_change(model, tokenizer, ModelChange(add_tokens=added))
    assert before + found.growth(added) == model.get_input_embeddings().weight.shape[0]


def test_tokens_in_two_calls_share_what_is_free() -> None:
    padded = Vocabulary(frozenset({"a"}), 3)
    assert [padded.growth(tokens) for tokens in (["a", "b"], ["b", "c", "d"], [*"bcdef"])] == [
        0,
        0,
        2,
    ]


def test_what_is_not_here_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert of_model(ModelSpec(path="nobody/nothing", revision="0" * 40)) is None
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10}))
    assert of_model(ModelSpec(path=str(tmp_path))) is None  # no tokenizer.json
    (tmp_path / "tokenizer.json").write_text("{")
    assert of_model(ModelSpec(path=str(tmp_path))) is None
