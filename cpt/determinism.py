"""Deterministic mode: kernels that give the same bits each time, or an error that names the one that cannot.

It decides how numbers are computed, not what is computed, so that it is no part of a stage's id.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from cpt.errors import PlanError

#: Read when CUDA, flash attention and NCCL start; what is set already stays.
#: Source: https://docs.nvidia.com/cuda/cublas/#results-reproducibility (two workspaces of 4 MiB in eight
#: buffers); flash-attn `FLASH_ATTENTION_DETERMINISTIC` as transformers reads it; NCCL's user guide, NCCL_ALGO
#: (which algorithm adds up decides the order of the sum).
VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    "NCCL_ALGO": "Ring",
}
_NO_KERNEL = re.compile(r"(\S+) does not have a deterministic implementation")


def set_variables() -> None:
    """Have the libraries of this process be deterministic; before torch is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


@contextmanager
def deterministic(is_wanted: bool, where: str) -> Iterator[None]:
    """Let torch use deterministic kernels only; the settings before come back at the end.

    Args:
        is_wanted: whether to do anything.
        where: the stage, for the message.

    Raises:
        PlanError: an operation has no deterministic kernel on this device; names it.
    """
    if not is_wanted:
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        found = _NO_KERNEL.search(str(error))
        if found is None:
            raise
        raise PlanError(
            f"{where}: deterministic: {found.group(1)} has no deterministic kernel on this device; leave "
            f"`deterministic` out, or what uses it"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]
