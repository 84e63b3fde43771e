"""TRL's fused head on a CPU: score the positions that have a label, not all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def labels_only() -> Iterator[None]:
    """Within it, the fused head scores on CPUs what it scores on GPUs: positions with a label.

    Elsewhere than on Triton's devices TRL 1.16 scores every position, prompts and padding too, since on
    accelerators that compile each shape a changing number would cost more (`add_fused_lm_head` in
    trl/trainer/utils.py, `compact`). The other positions are masked afterwards, so the losses are the same.
    """
    from trl.trainer import utils

    elsewhere = utils._use_triton

    def compact(device: Any) -> bool:
        return device.type == "cpu" or bool(elsewhere(device))

    utils._use_triton = compact
    try:
        yield
    finally:
        utils._use_triton = elsewhere
