"""World: how method code sees the other processes, and the only thing it needs of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class World:
    """Rank and size of the process group, and the few collectives that hooks and probes use."""

    rank: int = 0
    size: int = 1
    accelerator: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def sum_(self, value: "Tensor") -> "Tensor":
        """Sum over ranks, in place."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def agree(self, value: Any) -> Any:
        """The main process's value, on every rank."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others do, so that they find its cache."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()


def current() -> World:
    """The world that `accelerate launch` made, or a world of one."""
    from accelerate import PartialState

    state = PartialState()
    return World(state.process_index, state.num_processes, state)
