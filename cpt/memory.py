"""How a process that computes on a CPU asks the system for memory."""

import ctypes
import sys

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
