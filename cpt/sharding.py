"""What of a stage each process of a backend holds, and where: read from the backend's name alone.

A name is `<base>` or `<base>-<trait>`: the base says what is spread over the processes, the trait where it
lies (`offload`: in the host's memory) or that the processes are on several machines (`nodes`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from cpt.model_size import ModelSize

#: What of a model's training the w processes of a base share out, each holding 1 / w of it. ZeRO's
#: optimizer states have a master copy of the weights in 32 bits among them where it computes in 16.
SPREADS: Mapping[str, frozenset[str]] = {
    "single": frozenset(),
    "ddp": frozenset(),
    "zero1": frozenset({"states"}),
    "zero2": frozenset({"states", "gradients"}),
    "zero3": frozenset({"states", "gradients", "weights"}),
    "fsdp2": frozenset({"states", "gradients", "weights"}),
}
#: What `<base>-offload` keeps in the host's memory.
OFFLOADS: Mapping[str, frozenset[str]] = {
    "zero1": frozenset({"states"}),
    "zero2": frozenset({"states", "gradients"}),
    "zero3": frozenset({"states", "gradients", "weights"}),
    "fsdp2": frozenset({"states", "gradients", "weights"}),
}


@dataclass(frozen=True)
class Sharding:
    """A backend's name, taken apart.

    Attributes:
        base: what is spread, and by what.
        offloads: whether it lies in the host's memory.
        nodes: whether processes are on several machines.
    """

    base: str
    offloads: bool = False
    nodes: bool = False

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed does it."""
        return self.base.startswith("zero")

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed does it."""
        return self.base not in ("single", "ddp")

    @property
    def spreads(self) -> frozenset[str]:
        """Which of states, gradients and weights each process holds a share of only."""
        return SPREADS[self.base]

    @property
    def on_host(self) -> frozenset[str]:
        """Which of them lie in the host's memory."""
        return OFFLOADS[self.base] if self.offloads else frozenset()


def sharding(backend: str) -> Sharding:
    """A backend's name, taken apart; which names there are, `launch.backend.BACKENDS` says."""
    base, *traits = backend.split("-")
    return Sharding(base, "offload" in traits, "nodes" in traits)


# DeepSpeed's own defaults, and the bucket of configs/deepspeed: parameters, not bytes.
LIVE, BUCKET = 1e9, 5e7


def buffers(size: ModelSize, shard: Sharding, width: int, count: int, half: bool) -> float:
    """Bytes of what is whole for a while on each process.

    - fsdp2: two of its groups, of which the largest is a layer or the embeddings with the head.
    - zero3: as many parameters as `stage3_max_live_parameters` allows, 10^9.
    - zero1, zero2 and zero3: a bucket of gradients on their way, 5 * 10^7.

    Args:
        width: bytes of a weight.
        count: numbers that are trained.
        half: whether it computes in 16 bits.
    """
    bucket = min(BUCKET, count) * width if shard.is_zero else 0.0
    if "weights" not in shard.spreads:
        return bucket
    if shard.is_zero:
        return bucket + min(LIVE, size.num_parameters) * width
    layers = max(size.num_layers, 1)
    rest = sum(prod(shape) for name, shape in size.shapes.items() if ".layers." not in name)
    largest = max((size.num_parameters - rest) / layers, rest)
    return 2 * largest * (2 if half else width)
