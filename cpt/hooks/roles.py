"""Which weights of an architecture are attention, feed-forward, norms, embeddings, head.

A table by `model_type`, checked against shapes; nothing is guessed from a substring of a name. In the table a
`*` stands for the number of a block, and the text behind `:` says where a weight's side of width H is: `in`,
`out`, `table` [rows, H], or `vector`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from cpt.errors import HookError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["attn_proj", "attn_qkv", "mlp_gate_up", "mlp", "norms", "embeddings", "lm_head"]
ROLES: tuple[str, ...] = get_args(Role)
#: Roles that every block has a part in.
OF_BLOCKS = ("attn_qkv", "attn_proj", "mlp_gate_up", "mlp")


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a model are.

    Attributes:
        blocks: path of the list of blocks.
        qkv, attention_out, gate_up, down: paths within a block, `path:side`.
        norms: paths of all norms that the architecture may have.
        embeddings, lm_head: paths of modules.
        is_transposed: whether linear weights are [in, out] (transformers' Conv1D).
    """

    blocks: str
    qkv: tuple[str, ...]
    attention_out: tuple[str, ...]
    gate_up: tuple[str, ...]
    down: tuple[str, ...]
    norms: tuple[str, ...]
    embeddings: tuple[str, ...]
    lm_head: str = "lm_head"
    is_transposed: bool = False

    def parts(self, role: str) -> tuple[str, ...]:
        """`path:side` of what a role consists of."""
        of_block: Mapping[str, tuple[str, ...]] = {
            "attn_qkv": self.qkv,
            "attn_proj": self.qkv + self.attention_out,
            "mlp_gate_up": self.gate_up,
            "mlp": self.gate_up + self.down,
        }
        if role in of_block:
            return tuple(f"{self.blocks}.*.{part}" for part in of_block[role])
        if role == "norms":
            return tuple(f"{path}:vector" for path in self.norms)
        if role == "embeddings":
            return tuple(f"{path}:table" for path in self.embeddings)
        return (f"{self.lm_head}:table",)


def _llama(gate_up: tuple[str, ...], down: tuple[str, ...]) -> Architecture:
    return Architecture(
        blocks="model.layers",
        qkv=tuple(f"self_attn.{letter}_proj:in" for letter in "qkv"),
        attention_out=("self_attn.o_proj:out",),
        gate_up=gate_up,
        down=down,
        norms=(
            "model.norm",
            "model.layers.*.input_layernorm",
            "model.layers.*.post_attention_layernorm",
            "model.layers.*.self_attn.q_norm",
            "model.layers.*.self_attn.k_norm",
        ),
        embeddings=("model.embed_tokens",),
    )


_DENSE = _llama(("mlp.gate_proj:in", "mlp.up_proj:in"), ("mlp.down_proj:out",))
#: By `model_type`. The router of a mixture of experts is in no role.
ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _DENSE),
    "mixtral": _llama(("mlp.experts.gate_up_proj:in",), ("mlp.experts.down_proj:out",)),
    "gpt2": Architecture(
        blocks="transformer.h",
        qkv=("attn.c_attn:in",),
        attention_out=("attn.c_proj:out",),
        gate_up=("mlp.c_fc:in",),
        down=("mlp.c_proj:out",),
        norms=("transformer.ln_f", "transformer.h.*.ln_1", "transformer.h.*.ln_2"),
        embeddings=("transformer.wte", "transformer.wpe"),
        is_transposed=True,
    ),
    "gpt_neox": Architecture(
        blocks="gpt_neox.layers",
        qkv=("attention.query_key_value:in",),
        attention_out=("attention.dense:out",),
        gate_up=("mlp.dense_h_to_4h:in",),
        down=("mlp.dense_4h_to_h:out",),
        norms=(
            "gpt_neox.final_layer_norm",
            "gpt_neox.layers.*.input_layernorm",
            "gpt_neox.layers.*.post_attention_layernorm",
        ),
        embeddings=("gpt_neox.embed_in",),
    ),
}


def architecture(model_type: str) -> Architecture:
    """The table's entry.

    Raises:
        HookError: there is none.
    """
    if model_type not in ARCHITECTURES:
        raise HookError(
            f"freeze: which weights of a {model_type} model are attention or feed-forward is not known, but "
            f"of {', '.join(sorted(ARCHITECTURES))}; name modules instead, such as layers.*.self_attn"
        )
    return ARCHITECTURES[model_type]


def shapes_of(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters; a tied one under each of its names."""
    named = model.named_parameters(remove_duplicate=False)
    return {name: tuple(parameter.shape) for name, parameter in named}


def select(
    role: str,
    model_type: str,
    shapes: Mapping[str, tuple[int, ...]],
    width: int,
    num_blocks: int,
) -> set[str]:
    """Names of the parameters that play a role, biases included.

    Args:
        width: H.

    Raises:
        HookError: the architecture is not in the table, a weight has another shape than its place in it
            says, or a block lacks one.
    """
    known = architecture(model_type)
    found: set[str] = set()
    for part in known.parts(role):
        path, _, side = part.partition(":")
        names = [name for name in shapes if _is_at(name, path)]
        for name in names:
            _check_shape(name, shapes[name], side, width, known.is_transposed)
        if role in OF_BLOCKS:
            in_blocks = {name.split(".")[known.blocks.count(".") + 1] for name in names}
            if len(in_blocks) != num_blocks:
                raise HookError(
                    f"freeze: {path} is in {len(in_blocks)} of {num_blocks} blocks, so that {role} is not "
                    f"what the table of a {model_type} model says; name modules instead"
                )
        found.update(names)
    return found


def matching(pattern: str, names: Sequence[str]) -> set[str]:
    """Names of the parameters that a pattern selects: itself, or all that is below a module of that name.

    A pattern's words between dots are matched against whole words, so `layers.1` is not `layers.10`; `*`
    is any one word, or any part of one. It may leave out the first words of a name.
    """
    words = pattern.split(".")
    return {name for name in names if any(_ends_with(path, words) for path in _above(name))}


def blocks_below(model_type: str, number: int, names: Sequence[str]) -> set[str]:
    """Names of the parameters in the first blocks."""
    known = architecture(model_type)
    first = {f"{known.blocks}.{index}" for index in range(number)}
    return {name for name in names if any(name.startswith(f"{block}.") for block in first)}


def _is_at(name: str, path: str) -> bool:
    """Whether a parameter is the one of that path, or the weight or bias of the module of that path."""
    own, at = name.split("."), path.split(".")
    is_below = len(own) == len(at) + 1 and own[-1] in ("weight", "bias")
    return (is_below or len(own) == len(at)) and all(map(_is_word, own, at))


def _is_word(own: str, at: str) -> bool:
    return own.isdigit() if at == "*" else own == at


def _above(name: str) -> Iterator[list[str]]:
    """A parameter's path, its module's, and so on."""
    words = name.split(".")
    return (words[:end] for end in range(len(words), 0, -1))


def _ends_with(path: list[str], words: list[str]) -> bool:
    end = path[-len(words) :]
    return len(end) == len(words) and all(map(fnmatchcase, end, words))


def _check_shape(
    name: str, shape: tuple[int, ...], side: str, width: int, is_transposed: bool
) -> None:
    """Refuse a weight whose side of width H is not where the table says."""
    if name.endswith(".bias") or side == "vector":
        is_right = len(shape) == 1
    elif side == "table":
        is_right = len(shape) == 2 and shape[1] == width
    else:
        # [out, in], [experts, out, in], or for Conv1D [in, out]
        is_last = (side == "in") is not is_transposed
        is_right = len(shape) in (2, 3) and shape[-1 if is_last else -2] == width
    if not is_right:
        raise HookError(
            f"freeze: {name} has shape {shape}, which is not that of the part of the model that the table "
            f"says it is (hidden size {width}); name modules instead"
        )
