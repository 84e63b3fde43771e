"""World: how method code sees the other processes, and the only thing it needs of them."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cpt.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor

#: Seconds after which a process that waits for others gives up; where unset, as the backend has it.
COLLECTIVES = "CPT_COLLECTIVE_SECONDS"


#: Backends on which no process holds the whole model while a stage trains.
SPREADING = frozenset({"fsdp2", "zero3"})


@dataclass(frozen=True)
class World:
    """Rank and size of the process group, and the few collectives that hooks and probes use.

    Attributes:
        accelerator: accelerate's state, where there is one.
        spreads: weights are spread over the processes, so that each forward pass needs all of them.
    """

    rank: int = 0
    size: int = 1
    accelerator: Any = None
    spreads: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def device(self) -> Any:
        """Where this process computes."""
        return self.accelerator.device if self.accelerator is not None else "cpu"

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

    def agree_all(self, value: bool) -> bool:
        """Whether it holds on every rank."""
        if self.size == 1:
            return value
        import torch

        return int(self.sum_(torch.tensor(int(value), device=self.device))) == self.size

    def any(self, value: bool) -> bool:
        """Whether it holds on some rank."""
        return not self.agree_all(not value)

    def agree(self, value: Any) -> Any:
        """The main process's value, on every rank."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def current() -> World:
    """The world that `accelerate launch` made, or a world of one.

    Raises:
        PlanError: the launcher announced another number of processes than found each other.
    """
    import torch
    from accelerate import PartialState

    announced = int(os.environ.get("WORLD_SIZE", "1"))
    given = os.environ.get(COLLECTIVES) if announced > 1 else None
    most = {"timeout": timedelta(seconds=float(given))} if given else {}
    if announced > 1 and not torch.cuda.is_available():
        # Without cpu=True, accelerate sets up no group on a machine without accelerators, and says nothing.
        sharded = any(
            name in os.environ for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
        )
        state = PartialState(cpu=not sharded, backend="gloo", **most)
    else:
        state = PartialState(**most)
    if state.num_processes != announced:
        raise PlanError(
            f"{announced} processes were started and {state.num_processes} found each other: they would "
            f"train apart; start them with cpt run, or with a config of configs/accelerate"
        )
    return World(state.process_index, state.num_processes, state)


def leave() -> None:
    """Take the process group down; the last thing a process of several does.

    Left to the interpreter's end, gloo's threads are still running when C++ destroys them, and the process
    now and then aborts ("terminate called without an active exception") after all its work is done. So they
    are while a wrapped model holds the group; it and its trainer, which hold one another, are freed first.
    """
    import gc

    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
