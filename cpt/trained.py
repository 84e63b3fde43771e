"""How many numbers a stage trains, and what lies beside them, as its hooks say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from cpt.errors import HookError
from cpt.hooks.base import Hook
from cpt.hooks.freeze import Freeze
from cpt.hooks.lora import Lora
from cpt.hooks.o_lora import OLora
from cpt.hooks.osf import OSF
from cpt.model_size import ModelSize


@dataclass(frozen=True)
class Trained:
    """Numbers of a stage's model.

    Attributes:
        count: that are trained.
        added: that lie in memory on top of the model's own: adapters, and what peft keeps beside them.
        kept: that the stage leaves on disk beside its model.
        is_adapter: whether what is trained is an adapter, in 32 bits whatever the model's type.
    """

    count: int
    added: int
    kept: int
    is_adapter: bool


def trained(size: ModelSize, hooks: Sequence[Hook]) -> Trained:
    """What these hooks leave to train.

    - lora, o_lora: A and B.
    - osf: of a weight [m, n] with r = min(m, n) - k free directions r (m + n + 1); their beginnings beside
      them, and where m != n the k protected directions of the longer side.
    - freeze: what is selected, where the names of the model's weights are known by its kind; else all.
    """
    for hook in hooks:
        if isinstance(hook, Lora | OLora):
            count = size.adapter(hook.rank, hook.targets)
            return Trained(count, count, count, True)
        if isinstance(hook, OSF):
            return _of_osf(size, hook)
        if isinstance(hook, Freeze):
            return Trained(_of_freeze(size.shapes, hook), 0, 0, False)
    return Trained(size.num_parameters, 0, 0, False)


def _of_osf(size: ModelSize, hook: OSF) -> Trained:
    count = high = 0
    for m, n in size.linear(hook.targets):
        least, k = min(m, n), hook.effective_rank
        k = min(int(least * k) if isinstance(k, float) else k, least)
        count += (least - k) * (m + n + 1)
        high += k * max(m, n) if m != n else 0
    return Trained(count, 2 * count + high, 0, True)


def _of_freeze(shapes: Mapping[str, tuple[int, ...]], hook: Freeze) -> int:
    everything = sum(prod(shape) for shape in shapes.values())
    embedding = shapes.get("model.embed_tokens.weight")
    blocks = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
    if embedding is None or not blocks:
        return everything
    try:
        # Of the kinds whose weights are called like this; one with other parts is refused by the table.
        chosen = hook.selected(shapes, "llama", embedding[1], len(blocks))
    except HookError:  # the stage says so; here it is counted as training all
        return everything
    return sum(prod(shapes[name]) for name in chosen)
