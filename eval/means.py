"""Weighted means over items, the paired difference of two, and their standard errors."""

import math
from collections.abc import Iterable, Sequence

from eval.matrix import Item

_ROUNDING = 1e-12


def weighted_mean(items: Iterable[Item]) -> float:
    """sum(weight * value) / sum(weight)."""
    found = list(items)
    weights = [item.weight for item in found]
    return math.fsum([item.weight * item.value for item in found]) / math.fsum(weights)


def paired_difference(before: Sequence[Item], after: Sequence[Item]) -> tuple[float, float]:
    """Difference of two weighted means over the same items, and its standard error.

    With R = sum(w v) / sum(w), item i moves the difference by
    e_i = w_i (v_i - R) / sum(w) of `after` minus the same of `before` (the linearised ratio), and
    the variance is n / (n - 1) * sum(e_i^2); weights of 1 give the paired t formula s / sqrt(n).
    Items of one cluster count as one: their e_i are summed first, and n is the number of clusters.
    """
    mean_before, mean_after = weighted_mean(before), weighted_mean(after)
    moves = [
        new - old
        for old, new in zip(
            influences(before, mean_before), influences(after, mean_after), strict=True
        )
    ]
    return mean_after - mean_before, spread(by_cluster(moves, clusters(before)))


def ratio_stderr(items: Sequence[Item]) -> float:
    """Standard error of `weighted_mean`, linearised; s / sqrt(n) where all weights are 1."""
    return spread(by_cluster(influences(items, weighted_mean(items)), clusters(items)))


def influences(items: Sequence[Item], mean: float) -> list[float]:
    """w_i (v_i - mean) / sum(w): how far each item moves the weighted mean; their sum is 0."""
    total = math.fsum(item.weight for item in items)
    return [item.weight * (item.value - mean) / total for item in items]


def clusters(items: Sequence[Item]) -> list[str] | None:
    """The cluster of each item, or None where every item is its own."""
    if not any(item.cluster for item in items):
        return None
    # A NUL cannot stand in a cluster's name, so that a lone item never joins one.
    return [item.cluster or f"\0{item.id}" for item in items]


def by_cluster(moves: Sequence[float], names: Sequence[str] | None) -> list[float]:
    """Sums per cluster, in the order in which clusters appear; the moves themselves without any."""
    if names is None:
        return list(moves)
    sums: dict[str, float] = {}
    for name, move in zip(names, moves, strict=True):
        sums[name] = sums.get(name, 0.0) + move
    return list(sums.values())


def spread(moves: Sequence[float]) -> float:
    """sqrt(n / (n - 1) * sum(e_i^2)); 0 for a single move, whose spread is not known."""
    if len(moves) < 2:
        return 0.0
    scale = len(moves) / (len(moves) - 1)
    stderr = math.sqrt(scale * math.fsum(move * move for move in moves))
    return stderr if stderr > _ROUNDING else 0.0
