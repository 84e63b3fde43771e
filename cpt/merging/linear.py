"""Averages of fp32 tensors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def average(tensors: "Sequence[Tensor]", weights: Sequence[float]) -> "Tensor":
    """sum_k s_k w_k of tensors of one shape, for sum_k s_k = 1, as w_1 + sum_k s_k (w_k - w_1).

    So written, equal tensors give themselves bit for bit for any weights. Tensors of weight 0 are left
    out (0 times infinity is no number), and one that is left alone is returned as it is.
    """
    import torch

    (first, _), *others = [(t, s) for t, s in zip(tensors, weights, strict=True) if s != 0]
    if not others:
        return first
    if len(others) == 1:  # the same sum in one pass over memory
        return torch.lerp(first, *others[0])
    total = first.clone()
    for tensor, weight in others:
        total.add_(tensor - first, alpha=weight)
    return total
