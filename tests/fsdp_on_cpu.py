"""Lets accelerate run FSDP2 on CPU processes over gloo; import it before anything that makes its state.

accelerate 1.15 promotes a process group to FSDP only where it found GPUs (accelerate/state.py): on a CPU the
same settings train plain DDP, or processes that never talk. For tests alone.
"""

import os
from typing import Any

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

from accelerate.state import PartialState
from accelerate.utils import DistributedType

_prepare = PartialState._prepare_backend


def _prepare_backend(self: Any, *args: Any, **kwargs: Any) -> Any:
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "gloo", DistributedType.MULTI_GPU  # which AcceleratorState promotes to FSDP
    return _prepare(self, *args, **kwargs)


PartialState._prepare_backend = _prepare_backend
