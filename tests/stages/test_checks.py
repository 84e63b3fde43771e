import copy
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import EdgeError
from stages.checks import check_reference, check_vocabulary, eos_note, eos_rate


def test_a_token_without_an_embedding_is_refused(tiny_model: Any, tiny_tokenizer: Any) -> None:
    assert check_vocabulary(tiny_model, tiny_tokenizer, "sft") == 0
    more = copy.deepcopy(tiny_tokenizer)
    more.add_tokens(["<a>"])
    size = len(tiny_tokenizer)
    with pytest.raises(
        EdgeError, match=f"sft: .* {size + 1} tokens and the model {size} embeddings"
    ):
        check_vocabulary(tiny_model, more, "sft")


def test_embeddings_beyond_the_tokens_are_counted(tiny_model: Any, tiny_tokenizer: Any) -> None:
    tiny_model.resize_token_embeddings(len(tiny_tokenizer) + 5, mean_resizing=False)
    assert check_vocabulary(tiny_model, tiny_tokenizer, "sft") == 5


@pytest.mark.parametrize("which", ["head", "config"])
def test_head_embeddings_and_config_agree(tiny_model: Any, tiny_tokenizer: Any, which: str) -> None:
    size = len(tiny_tokenizer)
    head, declared = (size + 1, size) if which == "head" else (size, size + 1)
    tiny_model.get_output_embeddings().weight.data = tiny_model.lm_head.weight.new_zeros(head, 32)
    tiny_model.config.vocab_size = declared
    words = (
        f"sft: the model has {size} embeddings, {head} output rows and config.vocab_size {declared}"
    )
    with pytest.raises(EdgeError, match=words):
        check_vocabulary(tiny_model, tiny_tokenizer, "sft")


class Rigged:
    """Stands for a model that ends after as many tokens as its prompt's last id says."""

    def __init__(self, eos: int) -> None:
        self.eos = eos
        self.config = SimpleNamespace(use_cache=False)
        self.device = "cpu"
        self.training = True

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def generate(self, input_ids: Any, max_new_tokens: int, **_: Any) -> Any:
        import torch

        new = torch.full((len(input_ids), max_new_tokens), 5)
        for row, ids in zip(new, input_ids, strict=True):
            if int(ids[-1]) < max_new_tokens:
                row[int(ids[-1])] = self.eos
        return torch.cat([input_ids, new], dim=1)


def test_the_rate_of_eos_on_a_rigged_model(tiny_tokenizer: Any) -> None:
    model = Rigged(tiny_tokenizer.eos_token_id)
    # EOS within the prompt does not count; after 0 and 7 new tokens it does, after 8 and 40 it is late.
    prompts = [[2, 2, 0], [9, 7], [8], [3, 4, 40]]
    assert eos_rate(model, tiny_tokenizer, prompts, max_new_tokens=8) == 0.5
    assert model.training
    assert model.config.use_cache is False
    assert eos_rate(model, tiny_tokenizer, []) == 0.0


def test_a_real_model_that_always_and_never_ends(tiny_model: Any, tiny_tokenizer: Any) -> None:
    import torch

    head = tiny_model.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()  # all tokens alike: the first one wins, which is not EOS
    prompts = [[5, 6], [7]]
    assert eos_rate(tiny_model, tiny_tokenizer, prompts, 4) == 0.0
    hidden = tiny_model.model(torch.tensor([prompts[0]])).last_hidden_state[0, -1]
    with torch.no_grad():
        head[tiny_tokenizer.eos_token_id] = hidden
    assert eos_rate(tiny_model, tiny_tokenizer, prompts[:1], 1) == 1.0


@pytest.mark.parametrize(
    ("before", "after", "warns"),
    [(1.0, 0.8, True), (0.7, 0.5, True), (0.3, 0.1, True), (0.9, 0.71, False), (0.5, 0.9, False)],
)
def test_a_fall_of_20_points_warns(before: float, after: float, warns: bool) -> None:
    note = eos_note(before, after)
    assert (note is not None) is warns
    if note:
        assert f"{after:.0%}" in note
        assert f"{before:.0%}" in note


def test_the_reference_is_the_declared_stage(tiny_folder: Any, tiny_model: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    same = AutoModelForCausalLM.from_pretrained(tiny_folder)
    trainer = SimpleNamespace(model=tiny_model, ref_model=same)
    prompts = [[5, 6, 7], [8, 9]]
    where = str(tiny_folder)
    assert abs(check_reference(trainer, where, True, prompts, "dpo")) < 1e-6
    assert abs(check_reference(trainer, where, False, prompts, "dpo")) < 1e-6
    with torch.no_grad():
        same.get_output_embeddings().weight.mul_(20)
    with pytest.raises(EdgeError, match="before the first step: another model was loaded"):
        check_reference(trainer, where, True, prompts, "dpo")
    with pytest.raises(EdgeError, match="does not have the weights of"):
        check_reference(trainer, where, False, prompts, "dpo")
    with pytest.raises(EdgeError, match="holds no reference model"):
        check_reference(
            SimpleNamespace(model=tiny_model, ref_model=None), where, True, prompts, "dpo"
        )
