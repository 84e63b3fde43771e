"""Tiny models of many kinds, and lm-eval's HFLM and ours on them."""

from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from eval.harness import Model
from eval.progress import Meter

VOCABULARY, LONGEST = 60, 24
ROPE: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", ROPE, "branches"),
    "llama_eager": ("llama", ROPE | {"attn_implementation": "eager"}, "branches"),
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}, "branches"),
    "gpt_neox": ("gpt_neox", ROPE, "branches"),
    "qwen2": ("qwen2", ROPE, "branches"),
    "mistral": ("mistral", ROPE | {"sliding_window": 20}, "branches"),
    "gemma2": (
        "gemma2",
        ROPE | {"sliding_window": 18, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
        "branches",
    ),
    "granite": ("granite", ROPE | {"logits_scaling": 2.5}, "branches"),
    "bloom": (
        "bloom",
        {"hidden_size": 16, "n_layer": 2, "n_head": 2},
        "rows",
    ),
    "mamba": (
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
    if kind == "gemma2":
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
