"""Packed scoring gives the numbers of lm-eval's own HFLM, on many kinds of models."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from cpt.errors import ProbeError
from eval.harness import Model
from eval.packed_model import PackedModel, _takes_masks
from eval.progress import Meter
from tests.eval_models import KINDS, LONGEST, VOCABULARY, make, ours, theirs, words

__all__ = ["words"]


def asked() -> list[tuple[str, list[int], list[int]]]:
    """Items of several choices, of one token and of more; too long ones; the same ones again."""
    source = random.Random(5)

    def tokens(low: int, high: int) -> list[int]:
        return [source.randrange(VOCABULARY) for _ in range(source.randint(low, high))]

    found = []
    prompt = tokens(8, 8)
    for number in range(9):
        context = prompt * (number % 3 == 0) + tokens(1, 9)
        found += [(context, [token]) for token in tokens(4, 4)]
        found += [(context, tokens(2, 5)) for _ in range(3)]
        found += [
            (context, [*found[-1][1][:-1], 7]),
            (context, [0, 0]),
            (context[:1], tokens(9, 9)),
        ]
    found += [(tokens(LONGEST - 1, LONGEST + 3), tokens(1, 6)) for _ in range(4)]
    found += [(prompt * 4, tokens(3, 3)), (prompt * 4, tokens(LONGEST, LONGEST)), *found[:5]]
    deep = tokens(20, 20)  # deeper than a window, in a row that is not longer than a text
    found += [(deep, [5, 6]), (deep, [7, 8]), *((prompt, [n]) for n in range(VOCABULARY))]
    return [(f"{n}", *pair) for n, pair in enumerate(found)]


def check_equal(one: Sequence[Any], other: Sequence[Any]) -> None:
    assert [a for a, _ in one] == pytest.approx([b for b, _ in other], abs=1e-4, rel=1e-5)
    assert [a for _, a in one] == [b for _, b in other]


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihoods_are_those_of_lm_eval(kind: str, words: Any) -> None:
    model = make(kind)
    lm = ours(model, words)
    assert lm.packed is not None, PackedModel(model, max_length=LONGEST).why
    assert lm.packed.branches == (KINDS[kind][2] == "branches"), lm.packed.why
    assert bool(lm.packed.why) == (not lm.packed.branches)
    requests = asked()
    right = theirs(model, words)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert any(greedy for _, greedy in right)
    assert not all(greedy for _, greedy in right)
    check_equal(lm._loglikelihood_tokens(requests), right)


class Counted(torch.nn.Module):
    """Counts the tokens that go through the embedding."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.tokens, self.calls = inner, 0, 0

    def forward(self, ids: Any) -> Any:
        self.tokens += ids.numel()
        self.calls += 1
        return self.inner(ids)


def test_what_requests_share_is_computed_once(words: Any) -> None:
    model = make("llama", max_position_embeddings=512)
    lm = ours(model, words, batch_size=100)
    assert lm.packed is not None
    lm.packed.longest, lm.packed.attention = 100, 1e9
    context = [*range(3, 23)]
    requests = [("", context, [30 + n, 50, 51]) for n in range(4)]
    requests += [("", context, [40, 41]), ("", context, [40, 42]), ("", context, [43])]
    model.model.embed_tokens = counted = Counted(model.model.embed_tokens)
    lm._loglikelihood_tokens(requests)
    assert (counted.calls, counted.tokens) == (1, 20 + 4 * 2 + 1)


def test_texts_are_those_of_lm_eval(words: Any) -> None:
    model = make("llama")
    source = random.Random(2)
    texts = [
        " ".join(f"w{source.randrange(3, VOCABULARY)}" for _ in range(length))
        for length in (1, 70, 5, LONGEST, LONGEST + 1, 5, 33)
    ]
    instances = [
        Instance("loglikelihood_rolling", {}, (text,), 0) for text in [*texts, texts[0], ""]
    ]
    right = theirs(model, words).loglikelihood_rolling(instances, disable_tqdm=True)
    found = ours(model, words).loglikelihood_rolling(instances)
    assert found == pytest.approx(right, rel=1e-5)
    assert found[-1] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_choices_of_texts_are_those_of_lm_eval(words: Any, side: str) -> None:
    words.padding_side = side
    model = make("llama")
    pairs = [
        ("", " w5 w6"),
        ("", "</s> w7 w3"),
        ("w3 w4 ", "w5"),
        ("w3 w4", " w5"),
        ("w3 w4", " w6"),
    ]
    instances = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    kept: list[Any] = []
    lm = ours(model, words)
    lm.cache_hook.add_partial = lambda *each: kept.append(each)
    found = lm.loglikelihood(instances)
    check_equal(found, theirs(model, words).loglikelihood(instances, disable_tqdm=True))
    assert kept == [("loglikelihood", p, f) for p, f in zip(pairs, found, strict=True)]


def test_half_precision_sums_as_lm_eval_does(words: Any) -> None:
    model = make("llama", initializer_range=0.1).bfloat16()
    lm = ours(model, words)
    assert lm.packed is not None
    assert lm.packed.branches
    requests = asked()
    right = theirs(model, words)._loglikelihood_tokens(requests, disable_tqdm=True)
    found = lm._loglikelihood_tokens(requests)
    assert [a for a, _ in found] == pytest.approx([b for b, _ in right], rel=0.02)


def test_a_model_whose_mask_is_not_ours_to_give_has_a_row_for_each_choice(words: Any) -> None:
    model = make("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not _takes_masks(model.config)
    model.config._attn_implementation = "sdpa"
    assert _takes_masks(model.config)
    inner = model.model.forward
    model.model.forward = lambda *a, attention_mask=None, **k: inner(*a, **k)  # ignores a mask
    scorer = PackedModel(model, max_length=LONGEST)
    assert (scorer.is_right, scorer.branches) == (True, False)
    assert scorer.why == (
        "LlamaForCausalLM is scored in one row for each choice (a mask of our own changes its numbers)"
    )


def test_a_model_with_logits_of_its_own_is_scored_in_lm_eval_s_way(words: Any) -> None:
    model = make("llama")
    inner = model.forward

    def forward(input_ids: Any, **settings: Any) -> Any:
        found = inner(input_ids, **settings)
        found.logits = found.logits * 2
        return found

    model.forward = forward
    lm = ours(model, words)
    assert lm.packed is None
    requests = asked()
    right = theirs(model, words)._loglikelihood_tokens(requests, disable_tqdm=True)
    check_equal(lm._loglikelihood_tokens(requests), right)


@pytest.mark.parametrize("most", [150, 40])
def test_where_memory_does_not_do_batches_become_smaller(
    words: Any, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    model = make("llama")
    lm, requests = ours(model, words, batch_size=8), asked()
    right = lm._loglikelihood_tokens(requests)
    assert lm.packed is not None
    hidden, sizes = lm.packed.hidden, list[int]()

    def limited(rows: Any) -> Any:
        sizes.append(len(rows) * max(map(len, rows)))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("full")
        return hidden(rows)

    monkeypatch.setattr(lm.packed, "hidden", limited)
    steps: list[int] = []
    monkeypatch.setattr(lm.meter, "step", steps.append)
    check_equal(lm._loglikelihood_tokens(requests), right)
    assert max(sizes) > most
    assert sum(steps) == len(requests)
    most = 5
    with pytest.raises(ProbeError, match=r"no memory for one row of 24 tokens.*max_length"):
        lm._loglikelihood_tokens(requests)


def test_a_full_accelerator_is_not_a_model_that_cannot(
    words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *given: Any) -> bool:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(PackedModel, "_agrees", full)
    with pytest.raises(ProbeError, match="no memory for a few tokens"):
        ours(make("llama"), words)


ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
            "long_factor": [1.5, 2.0, 4.0, 8.0], "original_max_position_embeddings": 12,
        },
    },
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        "max_position_embeddings": 12,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPES)
def test_positions_that_go_by_the_batch_are_those_of_a_row_alone(kind: str, words: Any) -> None:
    model = make("llama", **ROPES[kind])
    lm, requests = ours(model, words), asked()
    assert lm.packed is not None
    assert lm.packed.branches
    assert lm.packed.same_below == (12 if kind == "longrope" else 11)
    found = lm._loglikelihood_tokens(requests)
    lengths = set()
    for (_, context, end), (value, greedy) in zip(requests, found, strict=True):
        row = (context + end)[-(LONGEST + 1) : -1]
        lengths.add(len(row))
        with torch.no_grad():
            model(torch.tensor([[1]]))  # forgets a longer one
            logs = torch.log_softmax(model(torch.tensor([row])).logits[0, -len(end) :], -1)
        labels = torch.tensor(end)
        alone = logs[torch.arange(len(end)), labels].sum().item()
        assert value == pytest.approx(alone, abs=1e-4, rel=1e-5)
        assert greedy == bool((logs.argmax(-1) == labels).all())
    assert min(lengths) < 11 < 20 < max(lengths)


def test_sharded_models_keep_the_passes_that_every_rank_makes(words: Any) -> None:
    model = make("llama")
    lm = Model(
        model, words, batch_size=3, max_length=LONGEST, accelerator=None, sharded=True,
        meter=Meter(None),
    )  # fmt: skip
    assert lm.packed is None


def test_what_no_model_can_score_is_refused(words: Any) -> None:
    lm = ours(make("llama"), words)
    with pytest.raises(ProbeError, match="choice ' w' has 0 tokens behind 1"):
        lm._loglikelihood_tokens([(("w3", " w"), [3, 4], [])])
    with pytest.raises(ProbeError, match="a text has 25 tokens behind 24"):
        lm._loglikelihood_tokens([(None, [3], [4] * 25)])
    assert lm._loglikelihood_tokens([]) == []
