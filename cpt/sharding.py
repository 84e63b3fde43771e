"""What of a stage each process of a backend holds, and where: read from the backend's name alone.

A name is `<base>` or `<base>-<trait>`: the base says what is spread over the processes, the trait where it
lies (`offload`: in the host's memory) or that the processes are on several machines (`nodes`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
