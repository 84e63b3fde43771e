"""Generation with a cache of shared prompts gives the texts of lm-eval's own HFLM."""

import random
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from cpt.errors import ProbeError
from eval.packed_model import PackedModel
from eval.prefill import shared_cache
from tests.eval_models import LONGEST, VOCABULARY, make, ours, theirs, words

__all__ = ["words"]


def prompts(settings: dict[str, Any], count: int = 9) -> list[Instance]:
    source = random.Random(3)

    def text(length: int) -> str:
        return " ".join(f"w{source.randrange(3, VOCABULARY)}" for _ in range(length))

    shared = [text(6), text(3)]
    found = [f"{shared[n % 2]} {text(source.randint(1, 3))}" for n in range(count)]
    return [Instance("generate_until", {}, (each, settings), 0) for each in [*found, found[0]]]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "granite", "gemma2", "mamba"])
def test_texts_are_those_of_lm_eval(kind: str, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(kind)
    given: list[bool] = []
    generate = HFLM._model_generate

    def watched(self: Any, context: Any, **settings: Any) -> Any:
        given.append(settings.get("past_key_values") is not None)
        return generate(self, context, **settings)

    monkeypatch.setattr(HFLM, "_model_generate", watched)
    requests = prompts({"max_gen_toks": 6, "until": ["w7"], "do_sample": False})
    right = theirs(model, words).generate_until(requests, disable_tqdm=True)
    assert len(set(right)) > 3
    assert given == [False] * 4  # of three rows each
    given.clear()
    assert ours(model, words).generate_until(requests) == right
    # Twelve rows of at most 9 + 6 tokens would fit; gemma2 keeps windows in its cache, mamba has none.
    assert given == [kind not in ("gemma2", "mamba")]


def test_the_cache_is_the_model_s_own(words: Any) -> None:
    model = make("llama")
    packed = PackedModel(model, max_length=LONGEST)
    rows = [[9, 8, 7, 6], [9, 8, 7, 5, 4], [9, 8, 7, 6], [9, 8, 3], [2]]
    padded = torch.tensor([[0] * (5 - len(row)) + row for row in rows[:4]])
    mask = torch.tensor([[0] * (5 - len(row)) + [1] * len(row) for row in rows[:4]])
    with torch.no_grad():
        cache = shared_cache(packed, padded, mask)
        assert cache.get_seq_length() == 4
        for number, row in enumerate(rows[:4]):
            own = model(torch.tensor([row[:-1]]), use_cache=True).past_key_values
            for mine, right in zip(cache.layers, own.layers, strict=True):
                length = len(row) - 1
                torch.testing.assert_close(mine.keys[number, :, -length:], right.keys[0])
                torch.testing.assert_close(mine.values[number, :, -length:], right.values[0])
        alone = torch.tensor([[5, 6, 7], [8, 9, 3]])
        assert shared_cache(packed, alone, torch.ones_like(alone)) is None
        short = torch.tensor([[9, 8], [0, 2]])
        assert shared_cache(packed, short, torch.tensor([[1, 1], [0, 1]])) is None


def test_batches_grow_for_short_greedy_answers_alone(words: Any) -> None:
    lm = ours(make("llama"), words)
    assert lm.packed is not None
    assert lm._num_rows(prompts({"max_gen_toks": 6})) == 12
    assert lm._num_rows(prompts({"max_gen_toks": 75})) == 9  # 3 x 256 tokens of 9 + 75 each
    assert lm._num_rows(prompts({"max_gen_toks": 500})) == 3
    assert lm._num_rows(prompts({"max_gen_toks": 6, "do_sample": True})) == 3
    assert lm._num_rows([]) == 3
    lm.packed.same_below = 12
    assert lm._num_rows(prompts({"max_gen_toks": 6})) == 1  # 9 + 6 tokens
    assert lm._num_rows(prompts({"max_gen_toks": 3})) == 12
    lm.packed = None
    assert lm._num_rows(prompts({"max_gen_toks": 6})) == 3


def test_where_memory_does_not_do_answers_are_made_in_smaller_batches(
    words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama")
    requests = prompts({"max_gen_toks": 6, "until": [], "do_sample": False})
    right = ours(model, words).generate_until(requests)
    generate, sizes, most = HFLM._model_generate, list[int](), 3

    def limited(self: Any, context: Any, **settings: Any) -> Any:
        sizes.append(len(context))
        if len(context) > most:
            raise torch.OutOfMemoryError("full")
        return generate(self, context, **settings)

    monkeypatch.setattr(HFLM, "_model_generate", limited)
    lm = ours(model, words)
    assert lm.generate_until(requests) == right
    assert sizes == [10, 6, 3, 3, 3, 1]
    most = 0
    with pytest.raises(ProbeError, match=r"no memory to answer 1 prompts at a time.*batch_size"):
        lm.generate_until(requests)
    sampled = prompts({"max_gen_toks": 6, "do_sample": True, "temperature": 1.0})
    sizes.clear()
    with pytest.raises(
        ProbeError, match="to answer 3 prompts"
    ):  # their answers depend on the batch
        lm.generate_until(sampled)
    assert sizes == [3]
