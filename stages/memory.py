"""How much memory a stage took at its peak: of the host, and of the accelerator where there is one."""

import resource
from collections.abc import Callable

from cpt.world import World

Read = Callable[[], int | None]


def forget_peak() -> None:
    """Count the accelerator's peak from here on: a process may train several stages."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def accelerator_peak() -> int | None:
    """Most bytes that tensors held on this process's accelerator at once; None without one.

    What the caching allocator reserved, and what others hold on the device, is not in it.
    """
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


def host_peak() -> int:
    """Most bytes that this process had resident; it cannot be counted from later than its start."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peaks(world: World, accelerator: Read = accelerator_peak) -> dict[str, float]:
    """Bytes by place: `peak` of the main process, and `accelerator`, the most that any rank had.

    Every rank calls this together. A stage that was interrupted knows only what came after.
    """
    own = accelerator()
    found: dict[str, float] = {"peak": host_peak()}
    if world.agree(own) is None:
        return found
    import torch

    each = torch.zeros(world.size, dtype=torch.float64, device=world.device)
    each[world.rank] = float(own or 0)
    return found | {"accelerator": float(world.sum_(each).max())}
