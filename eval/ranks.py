"""Work that every rank does together: where it fails on one, it fails on all."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from cpt.errors import ProbeError

Found = TypeVar("Found")


def together(work: Callable[[], Found], group: Any) -> Found:
    """What `work` gives; where it fails on one rank it fails on every one, so that none waits for another.

    Args:
        group: the accelerator of several processes; None for one.

    Raises:
        ProbeError: it failed on another rank, whose own error says why.
    """
    problem: Exception | None = None
    found: Found | None = None
    try:
        found = work()
    except Exception as error:
        problem = error
    if group is not None:
        failed = group.gather(torch.tensor([problem is not None], device=group.device).int())
        if problem is None and bool(failed.any()):
            ranks = ", ".join(str(rank) for rank in failed.nonzero().flatten().tolist())
            raise ProbeError(f"process {ranks} failed, and says why; this one stops with it")
    if problem is not None:
        raise problem
    return cast(Found, found)
