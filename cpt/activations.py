"""Bytes of what a forward pass leaves for the backward pass, of the head, and of sampling."""

from collections.abc import Sequence
from dataclasses import replace

from cpt.hooks.base import Hook, points
from cpt.model_size import ModelSize
from cpt.workload import Workload

# Tokens and vocabulary of one tile of TRL's fused head (trl/kernels/chunked_logprob.py), and the
# tokens of one of `cpt.tokens.token_kl`.
TILE = (4096, 32768)
KL_CHUNK = 256


def has_outputs(hook: Hook) -> bool:
    """Whether it makes logits of its own."""
    return "logits" in hook.needs_as_set() and "penalty" in points(hook)


def with_old(load: Workload, hooks: Sequence[Hook]) -> Workload:
    """The workload with the rows that hooks run beside the stage's own in one backward pass."""
    passes = max(load.per_step // load.sequences, 1)
    more = sum(-(-rows // passes) for hook in hooks for rows in hook.rows_per_step())
    return replace(load, sequences=load.sequences + more)


def activations(size: ModelSize, load: Workload, width: int) -> float:
    """Of the layers, in numbers of `width` bytes; see `cpt.footprint.footprint`."""
    tokens, (_, h), wide = load.sequences * load.length, size.embedding, size.intermediate
    by_h, by_wide = {(4, False): (40, 16), (4, True): (34, 8)}.get((width, load.half), (24, 8))
    layer = by_h * h + by_wide * wide
    if load.checkpointing:
        return tokens * (size.num_layers * width * h + layer)
    return float(tokens * size.num_layers * layer)


def head(size: ModelSize, load: Workload, num_kl: int) -> float:
    """Of the logits, in tiles, and of the head's gradient; `num_kl` penalties make logits too."""
    rows, h = size.embedding
    number = 2 if load.half else 4
    tile = min(load.sequences * load.length, TILE[0]) * min(rows, TILE[1])
    return 2 * tile * number + 4 * rows * h + num_kl * 4 * (5 * KL_CHUNK * rows + rows * h)


def sampling(size: ModelSize, load: Workload, width: int) -> float:
    """Keys and values of what is sampled at once: 2 * sum of K D over layers * rows * tokens * bytes.

    As many as completions may be long; how long prompts are, the data decides.
    """
    return 2.0 * size.key_width * load.sampled * load.length * (2 if load.half else width)
