"""The names and shapes of a GGUF file's tensors, from its header: no weights, no numpy.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from pathlib import Path
from typing import Any

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output": "lm_head",
}
# Bytes of a value of each type in a GGUF header; 8 is a text, 9 an array.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape, under the names that transformers gives the parts of a Llama-like decoder.

    Raises:
        ValueError, KeyError, struct.error: no GGUF file, or a damaged one.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _shapes(data)


def _shapes(data: Any) -> dict[str, tuple[int, ...]]:
    magic, _, num_tensors, num_values = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF":
        raise ValueError("no GGUF file")
    at = struct.calcsize("<4sIQQ")
    for _ in range(num_values):
        _, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at = _after_value(data, at + 4, kind)
    shapes = {}
    for _ in range(num_tensors):
        name, at = _text(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        dims = struct.unpack_from(f"<{rank}Q", data, at + 4)
        at += 4 + 8 * rank + 12  # type and offset
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part != "rope_freqs":  # computed, no weight
            shapes[name.replace(part, _NAMES.get(part, part))] = dims[::-1]  # innermost first
    return shapes


def _text(data: Any, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    return bytes(data[at + 8 : end]).decode(), end


def _after_value(data: Any, at: int, kind: int) -> int:
    if kind == 8:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != 9:
        return at + _SIZES[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in _SIZES:
        return at + int(count) * _SIZES[inner]
    for _ in range(count):
        at = _after_value(data, at, inner)
    return at
