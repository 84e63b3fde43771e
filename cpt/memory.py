"""How a process that computes on a CPU asks the system for memory."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cpt.world import World

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1  # as bytes, the most there are


def keep_freed_memory() -> bool:
    """Have glibc keep large freed blocks for the next request instead of returning each to the system.

    Activations, logits and gradients come and go at every step. As mappings of their own, which glibc makes
    of what is larger than 32 MiB, the system clears their pages anew each time: of a step of a 135M model
    on two cores that was 30 %. Returns whether it was done; elsewhere than on glibc nothing is.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def fits(model: Any, device: Any) -> bool:
    """Whether a device has room for a whole model, and as much again for what it computes."""
    import torch

    if torch.device(device).type != "cuda":
        return True
    size = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    return bool(2 * size <= torch.cuda.mem_get_info(device)[0])


@contextmanager
def where_it_fits(model: Any, world: World, say: Callable[[str], None]) -> Iterator[None]:
    """Have a model on the accelerator, if it has room for all of it; afterwards where it was.

    What is spread for training is measured whole before; on a CPU that is slow, and said.
    """
    import torch

    before = next(model.parameters()).device
    if world.device == "cpu" or before.type == world.device.type or world.device.type != "cuda":
        yield
        return
    if not fits(model, world.device):
        say(f"the model does not fit on {world.device} as a whole; it is measured on the CPU")
        yield
        return
    model.to(world.device)
    try:
        yield
    finally:
        model.to(before)
        torch.cuda.empty_cache()
