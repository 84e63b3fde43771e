"""A random model's config is checked against transformers' own source, which is not imported."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from cpt.random_config import architectures, faults, fields_of

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4}


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({}, "model_type is missing"),
        ({"model_type": "lama"}, "model_type: there is no 'lama'; did you mean 'llama'?"),
        ({"model_type": 3}, "model_type: there is no 3"),
        ({**LLAMA, "hiden_size": 64}, "no 'hiden_size' in llama; did you mean 'hidden_size'?"),
        ({**LLAMA, "vocab_size": 100}, "vocab_size: it is the tokenizer's; remove it"),
        ({**LLAMA, "hidden_size": "64"}, "hidden_size: should be int, not '64'"),
        ({**LLAMA, "hidden_size": True}, "hidden_size: should be int, not True"),
        ({**LLAMA, "tie_word_embeddings": 1}, "tie_word_embeddings: should be bool, not 1"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers: should be 1 or more, not 0"),
        (
            {**LLAMA, "num_attention_heads": 5},
            "hidden_size: 64 is no multiple of num_attention_heads, which is 5",
        ),
        ({"model_type": "llama", "num_attention_heads": 5}, "hidden_size: 4096 is no multiple of"),
        ({**GPT2, "n_head": 5}, "n_embd: 64 is no multiple of n_head, which is 5"),
        ({"model_type": "gpt2", "hidden_size": 64, "n_head": 5}, "n_embd: 64 is no multiple of"),
        (
            {**LLAMA, "num_key_value_heads": 3},
            "num_attention_heads: 4 is no multiple of num_key_value_heads, which is 3",
        ),
        ({**LLAMA, "head_dim": 7}, "head_dim: 7 is odd, and rotary positions need pairs"),
        ({**LLAMA, "hidden_size": 12}, "hidden_size / num_attention_heads: 3 is odd"),
    ],
)
def test_a_fault_is_one_line(config: Any, line: str) -> None:
    (said,) = faults(config)
    assert line in said


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        GPT2,
        {**LLAMA, "num_key_value_heads": 2, "rope_theta": 5e5, "hidden_act": "gelu"},
        {
            **LLAMA,
            "model_type": "qwen3",
            "num_key_value_heads": 1,
            "hidden_size": 66,
            "head_dim": 16,
        },
        {"model_type": "gpt-sw3", "anything": 1},  # known, but its fields are not plain to see
    ],
)
def test_what_is_right_or_cannot_be_known_passes(config: Any) -> None:
    assert faults(config) == []


def test_what_was_read_is_what_transformers_says() -> None:
    from transformers import GPT2Config, LlamaConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert architectures() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for architecture, kind in (("llama", LlamaConfig), ("gpt2", GPT2Config)):
        fields = fields_of(architecture)
        assert fields is not None
        declared = {field.name: field for field in dataclasses.fields(kind)}
        assert fields.types.keys() == declared.keys()
        assert fields.aliases == kind.attribute_map
        for name, value in fields.defaults.items():
            assert declared[name].default == value, name


def test_every_architecture_passes_with_its_own_defaults() -> None:
    """One that this reads wrongly would refuse a good recipe."""
    read = [name for name in architectures() if fields_of(name)]
    assert len(read) > 100
    for name in read:
        assert faults({"model_type": name}) == []


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from cpt.random_config import faults; faults({'model_type': 'llama'});"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
