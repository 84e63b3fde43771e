"""What is made of task vectors tau_k = w_k - w_0, fp32 tensors of one shape: sums, TIES, DARE."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def weighted_sum(deltas: "Sequence[Tensor]", weights: Sequence[float]) -> "Tensor":
    """sum_k s_k tau_k. Source: Ilharco et al. 2023, arXiv:2212.04089, section 2."""
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta, alpha=weight)
    return total


def trim(delta: "Tensor", threshold: float) -> "Tensor":
    """tau with the entries of magnitude below the threshold set to 0."""
    return delta.abs().ge_(threshold).mul_(delta)


def disjoint_mean(deltas: "Sequence[Tensor]", weights: Sequence[float]) -> "Tensor":
    """Mean of s_k tau_k over the k whose sign is that of the sum; 0 where the sum is 0.

    An entry that is 0 has no sign: it neither votes nor counts in the mean.

    Source: Yadav et al. 2023, arXiv:2306.01708, algorithm 1 (elect and merge), with weights.
    """
    import torch

    elected = weighted_sum(deltas, weights).sign_()
    total, count, agreed = (torch.zeros_like(elected) for _ in range(3))
    for delta, weight in zip(deltas, weights, strict=True):
        # The magnitude where the signs agree, else 0.
        torch.mul(delta, elected, out=agreed).clamp_(min=0)
        total.add_(agreed, alpha=weight)
        count.add_(agreed.sign_(), alpha=weight)
    # Where nobody agrees the total is 0, and so is the quotient.
    return total.mul_(elected).div_(count.masked_fill_(count == 0, 1.0))


def drop_and_rescale(delta: "Tensor", drop: float, seed: int, name: str, place: int) -> "Tensor":
    """tau * mask / (1 - drop), the mask's entries 1 with probability 1 - drop.

    Args:
        delta: tau.
        drop: p.
        seed, name, place: of the stage, the tensor and the model; they alone decide the mask.

    Source: Yu et al. 2024, arXiv:2311.03099, eq. 2 and 3.
    """
    import torch

    if drop == 0:
        return delta
    if drop == 1:
        return torch.zeros_like(delta)
    digest = hashlib.sha256(f"{seed}\0{name}\0{place}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    # Not bernoulli_, whose numbers are those of whatever library torch was built with.
    mask = torch.rand(delta.shape, generator=generator).ge_(drop)
    return mask.mul_(delta).div_(1 - drop)
