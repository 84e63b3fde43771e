"""Packed scoring gives the numbers of lm-eval's own HFLM, on many kinds of models."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from cpt.errors import ProbeError
from eval.harness import Model
from eval.progress import Meter
from eval.scoring import Scorer

VOCABULARY, LONGEST = 60, 24
ROPE: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", ROPE, "branches"),
    "llama eager": ("llama", ROPE | {"attn_implementation": "eager"}, "branches"),
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}, "branches"),
    "gpt_neox": ("gpt_neox", ROPE, "branches"),
    "qwen2": ("qwen2", ROPE, "branches"),
    "mistral, its window as wide as a text": ("mistral", ROPE | {"sliding_window": 20}, "branches"),
    "gemma2, every second layer with a window": (
        "gemma2",
        ROPE | {"sliding_window": 18, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
        "branches",
    ),
    "granite, which scales its logits": ("granite", ROPE | {"logits_scaling": 2.5}, "branches"),
    "bloom, whose positions are in the attention": (
        "bloom",
        {"hidden_size": 16, "n_layer": 2, "n_head": 2},
        "rows",
    ),
    "mamba, a state-space model": (
        "mamba",
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        "rows",
    ),
}


def make(kind: str, **settings: Any) -> Any:
    name, config, _ = KINDS[kind]
    torch.manual_seed(1)
    wanted = {"vocab_size": VOCABULARY, "initializer_range": 0.4, "attn_implementation": "sdpa"}
    wanted |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind.startswith("gemma2"):
        wanted["attn_implementation"] = "eager"
    wanted |= config | settings
    implementation = wanted.pop("attn_implementation")
    if name in ("mamba", "bloom"):
        implementation = None
    made = AutoConfig.for_model(name, **wanted)
    return AutoModelForCausalLM.from_config(made, attn_implementation=implementation).eval()


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def ours(model: Any, words: Any, batch_size: int = 3) -> Model:
    return Model(
        model,
        words,
        batch_size=batch_size,
        max_length=LONGEST,
        accelerator=None,
        sharded=False,
        meter=Meter(None),
    )


def theirs(model: Any, words: Any) -> HFLM:
    return HFLM(pretrained=model, tokenizer=words, batch_size=3, max_length=LONGEST)


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
    packed = ours(model, words)
    assert packed.scorer is not None, Scorer(model, max_length=LONGEST).why
    assert packed.scorer.branches == (KINDS[kind][2] == "branches"), packed.scorer.why
    assert bool(packed.scorer.why) == (not packed.scorer.branches)
    requests = asked()
    right = theirs(model, words)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert any(greedy for _, greedy in right)
    assert not all(greedy for _, greedy in right)
    check_equal(packed._loglikelihood_tokens(requests), right)


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
    packed = ours(model, words, batch_size=100)
    assert packed.scorer is not None
    packed.scorer.longest, packed.scorer.attention = 100, 1e9
    context = [*range(3, 23)]
    requests = [("", context, [30 + n, 50, 51]) for n in range(4)]
    requests += [("", context, [40, 41]), ("", context, [40, 42]), ("", context, [43])]
    model.model.embed_tokens = counted = Counted(model.model.embed_tokens)
    packed._loglikelihood_tokens(requests)
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
    packed = ours(model, words)
    packed.cache_hook.add_partial = lambda *each: kept.append(each)
    found = packed.loglikelihood(instances)
    check_equal(found, theirs(model, words).loglikelihood(instances, disable_tqdm=True))
    assert kept == [("loglikelihood", p, f) for p, f in zip(pairs, found, strict=True)]


def test_half_precision_sums_as_lm_eval_does(words: Any) -> None:
    model = make("llama", initializer_range=0.1).bfloat16()
    packed = ours(model, words)
    assert packed.scorer is not None
    assert packed.scorer.branches
    requests = asked()
    right = theirs(model, words)._loglikelihood_tokens(requests, disable_tqdm=True)
    found = packed._loglikelihood_tokens(requests)
    assert [a for a, _ in found] == pytest.approx([b for b, _ in right], rel=0.02)


def test_a_model_whose_mask_is_not_ours_to_give_has_a_row_for_each_choice(words: Any) -> None:
    model = make("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not _branches(model)
    model.config._attn_implementation = "sdpa"
    assert _branches(model)
    inner = model.model.forward
    model.model.forward = lambda *a, attention_mask=None, **k: inner(*a, **k)  # ignores a mask
    scorer = Scorer(model, max_length=LONGEST)
    assert (scorer.is_right, scorer.branches) == (True, False)
    assert scorer.why == (
        "LlamaForCausalLM is scored in one row for each choice (a mask of our own changes its numbers)"
    )


def _branches(model: Any) -> bool:
    from eval.scoring import _takes_masks

    return _takes_masks(model.config)


def test_a_model_with_logits_of_its_own_is_scored_in_lm_eval_s_way(words: Any) -> None:
    model = make("llama")
    inner = model.forward

    def forward(input_ids: Any, **settings: Any) -> Any:
        found = inner(input_ids, **settings)
        found.logits = found.logits * 2
        return found

    model.forward = forward
    packed = ours(model, words)
    assert packed.scorer is None
    requests = asked()
    right = theirs(model, words)._loglikelihood_tokens(requests, disable_tqdm=True)
    check_equal(packed._loglikelihood_tokens(requests), right)


def test_sharded_models_keep_the_passes_that_every_rank_makes(words: Any) -> None:
    model = make("llama")
    packed = Model(
        model, words, batch_size=3, max_length=LONGEST, accelerator=None, sharded=True,
        meter=Meter(None),
    )  # fmt: skip
    assert packed.scorer is None


def test_what_no_model_can_score_is_refused(words: Any) -> None:
    packed = ours(make("llama"), words)
    with pytest.raises(ProbeError, match="choice ' w' has 0 tokens behind 1"):
        packed._loglikelihood_tokens([(("w3", " w"), [3, 4], [])])
    with pytest.raises(ProbeError, match="a text has 25 tokens behind 24"):
        packed._loglikelihood_tokens([(None, [3], [4] * 25)])
    assert packed._loglikelihood_tokens([]) == []
