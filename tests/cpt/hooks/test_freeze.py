"""What trains is exactly what was selected, on each architecture of the table."""

from typing import Any

import pytest
import torch

from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.hooks.freeze import Freeze
from cpt.hooks.roles import matching
from cpt.world import World
from tests.tiny_stages import TinyStages, weights_of

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")
SMALL = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "vocab_size": 40}
LLAMA_LIKE = SMALL | {"intermediate_size": 24, "num_key_value_heads": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE | {"tie_word_embeddings": False},
    "qwen3": LLAMA_LIKE | {"tie_word_embeddings": False, "head_dim": 8},
    "mixtral": LLAMA_LIKE | {"num_local_experts": 2, "num_hidden_layers": 2},
    "gpt_neox": SMALL | {"intermediate_size": 24},
    "gpt2": {"n_embd": 16, "n_layer": 12, "n_head": 2, "vocab_size": 40},
}


def model_of(kind: str, **changes: Any) -> Any:
    """A random model of an architecture."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CONFIGS[kind] | changes))


def trained(kind: str, hook: Freeze, **changes: Any) -> set[str]:
    """Names of what a hook leaves to train."""
    adapted = hook.adapt(model_of(kind, **changes), CTX)
    return {name for name, p in adapted.named_parameters() if p.requires_grad}


def in_blocks(
    prefix: str, number: int, *parts: str, ends: tuple[str, ...] = (".weight",)
) -> set[str]:
    return {f"{prefix}.{n}.{part}{end}" for n in range(number) for part in parts for end in ends}


BOTH = (".weight", ".bias")
QKV = [f"self_attn.{letter}_proj" for letter in "qkv"]
NEOX = "gpt_neox.layers"
EXPECTED: list[tuple[str, str, set[str]]] = [
    ("llama", "attn_qkv", in_blocks("model.layers", 12, *QKV)),
    ("llama", "attn_proj", in_blocks("model.layers", 12, *QKV, "self_attn.o_proj")),
    ("llama", "mlp_gate_up", in_blocks("model.layers", 12, "mlp.gate_proj", "mlp.up_proj")),
    (
        "llama",
        "mlp",
        in_blocks("model.layers", 12, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ),
    (
        "llama",
        "norms",
        {"model.norm.weight"}
        | in_blocks("model.layers", 12, "input_layernorm", "post_attention_layernorm"),
    ),
    ("llama", "embeddings", {"model.embed_tokens.weight"}),
    ("llama", "lm_head", {"lm_head.weight"}),
    (
        "qwen3",
        "norms",
        {"model.norm.weight"}
        | in_blocks("model.layers", 12, "input_layernorm", "post_attention_layernorm")
        | in_blocks("model.layers", 12, "self_attn.q_norm", "self_attn.k_norm"),
    ),
    ("mixtral", "attn_proj", in_blocks("model.layers", 2, *QKV, "self_attn.o_proj")),
    (
        "mixtral",
        "mlp_gate_up",
        in_blocks("model.layers", 2, "mlp.experts.gate_up_proj", ends=("",)),
    ),
    (
        "mixtral",
        "mlp",
        in_blocks(
            "model.layers", 2, "mlp.experts.gate_up_proj", "mlp.experts.down_proj", ends=("",)
        ),
    ),
    ("gpt_neox", "attn_qkv", in_blocks(NEOX, 12, "attention.query_key_value", ends=BOTH)),
    (
        "gpt_neox",
        "attn_proj",
        in_blocks(NEOX, 12, "attention.query_key_value", "attention.dense", ends=BOTH),
    ),
    ("gpt_neox", "mlp_gate_up", in_blocks(NEOX, 12, "mlp.dense_h_to_4h", ends=BOTH)),
    ("gpt_neox", "embeddings", {"gpt_neox.embed_in.weight"}),
    ("gpt2", "attn_qkv", in_blocks("transformer.h", 12, "attn.c_attn", ends=BOTH)),
    ("gpt2", "attn_proj", in_blocks("transformer.h", 12, "attn.c_attn", "attn.c_proj", ends=BOTH)),
    ("gpt2", "mlp_gate_up", in_blocks("transformer.h", 12, "mlp.c_fc", ends=BOTH)),
    ("gpt2", "mlp", in_blocks("transformer.h", 12, "mlp.c_fc", "mlp.c_proj", ends=BOTH)),
    (
        "gpt2",
        "norms",
        {"transformer.ln_f.weight", "transformer.ln_f.bias"}
        | in_blocks("transformer.h", 12, "ln_1", "ln_2", ends=BOTH),
    ),
]


@pytest.mark.parametrize(
    ("kind", "role", "names"), EXPECTED, ids=[f"{kind}-{role}" for kind, role, _ in EXPECTED]
)
def test_a_role_is_exactly_these_weights(kind: str, role: str, names: set[str]) -> None:
    assert trained(kind, Freeze(train=role)) == names


def test_nothing_said_trains_attention() -> None:
    assert trained("llama", Freeze()) == trained("llama", Freeze(train=["attn_proj"]))


class TestLayers:
    """F48: `layers.1` is one layer of twelve, not three."""

    @pytest.mark.parametrize("pattern", ["layers.1", "model.layers.1", "*.layers.1"])
    def test_an_index_is_a_whole_number(self, pattern: str) -> None:
        names = trained("llama", Freeze(train=pattern))
        assert names
        assert all(name.startswith("model.layers.1.") for name in names)

    def test_a_star_is_one_word(self) -> None:
        assert trained("llama", Freeze(train="layers.*.self_attn")) == trained("llama", Freeze())
        assert matching("layers.*.q_proj", ["model.layers.0.self_attn.q_proj.weight"]) == set()

    def test_a_part_of_a_word_is_none(self) -> None:
        names = ["a.kv_proj.weight", "a.v_proj.weight", "a.v_proj_norm.weight"]
        assert matching("v_proj", names) == {"a.v_proj.weight"}
        assert matching("a", names) == set(names)

    def test_bottom_layers_and_embeddings_stay(self) -> None:
        model = model_of("llama")
        everything = {name for name, _ in model.named_parameters()}
        frozen = {name for name in everything if name.startswith("model.layers.0.")}
        frozen |= {name for name in everything if name.startswith("model.layers.1.")}
        expected = everything - frozen - {"model.embed_tokens.weight"}
        assert trained("llama", Freeze(bottom_layers=2)) == expected

    def test_bottom_layers_of_what_is_selected_stay(self) -> None:
        names = trained("gpt2", Freeze(train="attn_qkv", bottom_layers=11))
        assert names == {f"transformer.h.11.attn.c_attn.{part}" for part in ("weight", "bias")}


class TestTied:
    def test_a_head_stays_with_its_embeddings(self) -> None:
        names = trained("llama", Freeze(bottom_layers=2), tie_word_embeddings=True)
        assert names
        assert not {name for name in names if "embed" in name or "head" in name}

    @pytest.mark.parametrize("half", ["embeddings", "lm_head", "embed_tokens"])
    def test_half_is_refused(self, half: str) -> None:
        with pytest.raises(
            HookError, match=r"lm_head.weight and model.embed_tokens.weight are one"
        ):
            trained("llama", Freeze(train=half), tie_word_embeddings=True)

    def test_both_train(self) -> None:
        both = Freeze(train=["embeddings", "lm_head"])
        assert trained("llama", both, tie_word_embeddings=True) == {"model.embed_tokens.weight"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"train": "layers.12"}, "'layers.12' matches nothing; roles: attn_proj, attn_qkv"),
            ({"train": ["attn_proj", "q_prj"]}, "'q_prj' matches nothing"),
            ({"bottom_layers": 12}, "bottom_layers: 12 leaves none of 12 blocks to train"),
            ({"train": "layers.0", "bottom_layers": 1}, "freezes all that train selects"),
        ],
    )
    def test_selections(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(HookError, match=message):
            trained("llama", Freeze(**settings))

    def test_an_unknown_architecture_has_no_roles_but_modules(self) -> None:
        shapes = {"encoder.0.attn.weight": (4, 4)}
        with pytest.raises(HookError, match=r"of a strange model are attention .* is not known"):
            Freeze().selected(shapes, "strange", 4, 1)
        named = Freeze(train="encoder.0").selected(shapes, "strange", 4, 1)
        assert named == {"encoder.0.attn.weight"}

    def test_a_weight_of_another_shape_than_the_table_says(self) -> None:
        shapes = {f"model.layers.0.self_attn.{p}_proj.weight": (8, 8) for p in "qkvo"}
        assert len(Freeze().selected(shapes, "llama", 8, 1)) == 4
        shapes["model.layers.0.self_attn.o_proj.weight"] = (6, 8)
        with pytest.raises(HookError, match=r"o_proj.weight has shape \(6, 8\)"):
            Freeze().selected(shapes, "llama", 8, 1)

    def test_a_block_that_lacks_its_part(self) -> None:
        shapes = {f"model.layers.0.self_attn.{p}_proj.weight": (8, 8) for p in "qkvo"}
        with pytest.raises(HookError, match=r"q_proj is in 1 of 2 blocks"):
            Freeze().selected(shapes, "llama", 8, 2)

    @pytest.mark.parametrize("settings", [{"bottom_layers": -1}, {"train": 3}])
    def test_settings(self, settings: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match=r"hooks.freeze: "):
            table.build("freeze", settings, "sft.yaml")


def test_what_is_frozen_stays_to_the_bit_under_weight_decay(stages: TinyStages) -> None:
    job = stages.job(
        "sft",
        {"freeze": {"train": ["mlp_gate_up", "norms"]}},
        max_steps=20,
        optim="adamw_torch",
        weight_decay=0.1,
        learning_rate=1e-2,
    )
    before, after = weights_of(stages.sft.output / "checkpoint"), stages.train(job).weights
    moved = {name for name in before if not before[name].equal(after[name])}
    layers = [f"model.layers.{n}" for n in range(2)]
    expected = {f"{layer}.mlp.{p}_proj.weight" for layer in layers for p in ("gate", "up")}
    norms = ("input_layernorm", "post_attention_layernorm")
    expected |= {f"{layer}.{norm}.weight" for layer in layers for norm in norms}
    assert moved == expected | {"model.norm.weight"}
