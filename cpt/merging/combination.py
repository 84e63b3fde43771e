"""A method's settings -> what it makes of one tensor of each model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpt.merging.checks import Layout, Models
from cpt.merging.layerwise import blocks_of
from cpt.merging.linear import average
from cpt.merging.shards import Checkpoint
from cpt.merging.slerp import slerp
from cpt.merging.spec import (
    Dare,
    Delta,
    GreedySoup,
    Layerwise,
    Method,
    Slerp,
    Soup,
    TaskArithmetic,
    Ties,
)
from cpt.merging.task_vectors import disjoint_mean, drop_and_rescale, trim, weighted_sum
from cpt.merging.threshold import threshold_of, thresholds_of_stream

if TYPE_CHECKING:
    from torch import Tensor

#: A tensor's name -> its merged fp32 values.
Combine = Callable[[str], "Tensor"]


@dataclass
class Source:
    """The tensors of a merge in fp32, name by name; of differing vocabularies the common rows."""

    given: Models
    layout: Layout

    def values(self, one: Checkpoint, name: str) -> "Tensor":
        """One model's tensor."""
        tensor = one.tensor(name).float()
        return tensor[: self.layout.rows[name]] if name in self.layout.rows else tensor

    def models(self, name: str) -> "list[Tensor]":
        """Of every model, in order."""
        return [self.values(one, name) for one in self.given.models]

    def deltas(self, name: str) -> "list[Tensor]":
        """tau_k = w_k - w_0 of every model, in fp32: in 16 bits a small change would be lost."""
        assert self.given.base is not None
        base = self.values(self.given.base, name)
        return [tensor - base for tensor in self.models(name)]


@dataclass
class Vectors:
    """Lengths and angles of task vectors, summed over the tensors that went by."""

    num_models: int
    products: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.products = [[0.0] * self.num_models for _ in range(self.num_models)]

    def add(self, deltas: "Sequence[Tensor]") -> None:
        """Take in one tensor of each model."""
        for i, one in enumerate(deltas):
            for j, other in enumerate(deltas[: i + 1]):
                self.products[i][j] += float(one.flatten().dot(other.flatten()))

    def told(self) -> dict[str, Any]:
        """Norms, and cosines [K, K]; 0 with a vector of length 0."""
        k, p = range(self.num_models), self.products
        norms = [p[i][i] ** 0.5 for i in k]
        cosines = [[p[max(i, j)][min(i, j)] / (norms[i] * norms[j] or 1.0) for j in k] for i in k]
        return {"norms": norms, "cosines": cosines}


def combination(method: Method, source: Source, seed: int, vectors: Vectors) -> Combine:
    """What a method makes of each tensor.

    Args:
        method: the settings.
        source: gives the tensors.
        seed: of the stage, for DARE's masks.
        vectors: takes in the task vectors, of methods that make them.

    Raises:
        EdgeError: the method does not fit the model's layers.
    """
    number = len(source.given.models)
    if isinstance(method, Soup | GreedySoup):
        given = method.weights if isinstance(method, Soup) else None
        weights = given or [1 / number] * number
        return lambda name: average(source.models(name), weights)
    if isinstance(method, Slerp):
        t = method.t

        def circular(name: str) -> "Tensor":
            one, other = source.models(name)
            return slerp(one, other, t)

        return circular
    if isinstance(method, Layerwise):
        alphas = method.alphas()
        blocks = blocks_of(source.layout.merged, method.blocks)
        shares = {name: (alphas[block], 1 - alphas[block]) for name, block in blocks.items()}
        return lambda name: average(source.models(name), shares[name])
    assert isinstance(method, Delta)
    change = _change(method, source, seed)

    def added(name: str) -> "Tensor":
        deltas = source.deltas(name)
        vectors.add(deltas)
        onto = source.given.onto or source.given.base
        assert onto is not None
        return source.values(onto, name) + change(name, deltas)

    return added


def _change(method: Delta, source: Source, seed: int) -> "Callable[[str, list[Tensor]], Tensor]":
    """(name, tau_k) -> what is added."""
    if isinstance(method, TaskArithmetic):
        scales = method.weights
        return lambda name, deltas: weighted_sum(deltas, scales)
    assert isinstance(method, Ties | Dare)
    weights = method.weights or [1.0] * len(source.given.models)
    strength = method.strength
    if isinstance(method, Dare):
        drop, combined = method.drop, weighted_sum
        if method.method == "dare_ties":
            combined = disjoint_mean

        def dare(name: str, deltas: "list[Tensor]") -> "Tensor":
            left = [
                drop_and_rescale(delta, drop, seed, name, place)
                for place, delta in enumerate(deltas)
            ]
            return combined(left, weights).mul_(strength)

        return dare
    density = method.density
    whole: list[float] | None = None
    if method.scope == "global":
        whole = thresholds_of_stream(lambda: _stream(source), len(weights), density)

    def ties(name: str, deltas: "list[Tensor]") -> "Tensor":
        limits = whole or [threshold_of(delta, density) for delta in deltas]
        trimmed = [trim(delta, limit) for delta, limit in zip(deltas, limits, strict=True)]
        return disjoint_mean(trimmed, weights).mul_(strength)

    return ties


def _stream(source: Source) -> "Iterator[list[Tensor]]":
    for name in source.layout.merged:
        yield source.deltas(name)
