"""Which share of the earlier model each block of layers gets, and which block a tensor belongs to."""

import math
import re
from collections.abc import Iterable, Sequence

from cpt.errors import EdgeError

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|h)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|(?:^|\.)wte\.|(?:^|\.)wpe\.")


def block_alphas(alpha: float, tilts: Sequence[float], epsilon: float) -> list[float]:
    """a_b = alpha (sigmoid(u_b) + epsilon) / sum_c (sigmoid(u_c) + epsilon) * num_blocks; their mean
    is alpha.

    Source: Lin et al. 2024, arXiv:2309.06256, section 5 (`methods.md` P068).
    """
    # Of large negative tilts exp would overflow: sigmoid(u) = (1 + tanh(u / 2)) / 2.
    parts = [(1 + math.tanh(tilt / 2)) / 2 + epsilon for tilt in tilts]
    scale = alpha * len(parts) / math.fsum(parts)
    return [part * scale for part in parts]


def blocks_of(names: Iterable[str], num_blocks: int) -> dict[str, int]:
    """Tensor name -> block: layer l of L is in floor(l * num_blocks / L), the head in `num_blocks`.

    L is counted in the names. Embeddings are in block 0; a head that is tied to them has no tensor of
    its own, and its block holds the final norm alone.

    Raises:
        EdgeError: the names tell no layers, or fewer than there are to be blocks.
    """
    names = list(names)
    layers = {name: int(found[1]) for name in names if (found := _LAYER.search(name))}
    if not layers:
        raise EdgeError(
            "merge: layerwise: no tensor is called layers.<number>, so there are no layers to tell apart; "
            "use method: soup"
        )
    number = max(layers.values()) + 1
    if number < num_blocks:
        raise EdgeError(
            f"merge.blocks: {num_blocks}, and the model has {number} layers; write {number} or fewer"
        )
    placed = {}
    for name in names:
        if name in layers:
            placed[name] = layers[name] * num_blocks // number
        else:
            placed[name] = 0 if _EMBEDDING.search(name) else num_blocks
    return placed
