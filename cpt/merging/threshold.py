"""The magnitude above which a given share of entries lies, of one tensor or of a stream of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LOW = 16  # bits of a float32 that the second pass tells apart
_FEW = 100_000  # of more entries counting bits takes a third of the time that kthvalue takes


def num_kept(density: float, number: int) -> int:
    """floor(density * number), at least 1; in exact arithmetic, since 0.29 * 100 is 28.999... in floats."""
    return max(1, math.floor(Fraction(str(density)) * number))


def threshold_of(tensor: "Tensor", density: float) -> float:
    """The smallest magnitude that stays when `num_kept` entries of one tensor [any shape] stay."""
    number = tensor.numel()
    if density == 1 or number == 0:
        return 0.0
    if number > _FEW:
        return thresholds_of_stream(lambda: [[tensor]], 1, density)[0]
    rank = number - num_kept(density, number) + 1
    return float(tensor.abs().flatten().kthvalue(rank).values)


def thresholds_of_stream(
    stream: "Callable[[], Iterable[Sequence[Tensor]]]", num_models: int, density: float
) -> list[float]:
    """The same over all tensors of each model, exactly, holding one tensor at a time and reading all twice.

    The bits of fp32 magnitudes are ordered as the magnitudes are: the first pass counts their upper 16
    bits, the second the lower 16 of those that share the upper ones of the entry sought.

    Args:
        stream: gives the tensors of all models, name by name, and again each time it is called.
        num_models: of each name.
        density: share of entries that stay.
    """
    import torch

    if density == 1:
        return [0.0] * num_models
    upper = torch.zeros(num_models, 1 << (31 - _LOW), dtype=torch.int64)
    for deltas in stream():
        for model, delta in enumerate(deltas):
            upper[model] += torch.bincount(_bits(delta) >> _LOW, minlength=upper.shape[1])
    # (bin, rank within it, counted from the largest) of each model
    places = [_place(counts, num_kept(density, int(counts.sum()))) for counts in upper]
    lower = torch.zeros(num_models, 1 << _LOW, dtype=torch.int64)
    for deltas in stream():
        for model, delta in enumerate(deltas):
            bits = _bits(delta)
            alike = bits[bits >> _LOW == places[model][0]] & ((1 << _LOW) - 1)
            lower[model] += torch.bincount(alike, minlength=lower.shape[1])
    found = [
        (high << _LOW) | _place(counts, rank)[0]
        for counts, (high, rank) in zip(lower, places, strict=True)
    ]
    return torch.tensor(found, dtype=torch.int32).view(torch.float32).tolist()


def _bits(delta: "Tensor") -> "Tensor":
    """[n], int32: the bits of the magnitudes."""
    import torch

    return delta.abs().contiguous().flatten().view(torch.int32)


def _place(counts: "Tensor", rank: int) -> tuple[int, int]:
    """The bin that holds the entry of a rank, counted from the largest, and its rank within the bin."""
    above = counts.flip(0).cumsum(0)  # [bins], entries in the uppermost 1, 2, ... bins
    index = int((above < rank).sum())
    before = int(above[index - 1]) if index else 0
    return len(counts) - 1 - index, rank - before
