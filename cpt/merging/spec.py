"""What `merge:` of a stage may say: the settings of each method, with its card. Imports no torch.

Legend: w_k the weights of the K models in `from`, w_0 those of `base`, tau_k = w_k - w_0 (a task vector), all
in fp32, of any shape, tensor by tensor; s_k the numbers under `weights`. Everything is elementwise
unless it says otherwise. What comes out has the number type of the first model's file.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cpt.merging.layerwise import block_alphas
from cpt.settings import Settings

#: Settings that change how fast or in which files a merge is written, or only which one is refused.
CHANGES_NO_WEIGHT = {"shard_bytes", "unrelated"}


class Method(Settings):
    """What all methods have.

    Settings:
        unrelated: merge checkpoints that have no ancestor in common all the same.
        shard_bytes: most bytes of weights in one file of the result.
    """

    fewest: ClassVar[int] = 2
    most: ClassVar[float] = math.inf

    unrelated: bool = False
    shard_bytes: int = Field(default=5_000_000_000, ge=1)

    @property
    def name(self) -> str:
        """The method, as `method:` says it."""
        return str(getattr(self, "method"))  # noqa: B009 - each method has its own Literal

    @property
    def chooses(self) -> tuple[str, str] | None:
        """(suite, probe) by which it chooses among candidates; None where it does not."""
        suite, probe = getattr(self, "suite", None), getattr(self, "probe", None)
        return None if suite is None or probe is None else (suite, probe)

    def places(self) -> dict[str, str]:
        """Role -> the stage that it names, of models besides those in `from`."""
        return {}

    def content(self) -> dict[str, Any]:
        """What enters the stage's id, where stages stand by their own ids and a suite by its probe's hash."""
        left_out = {*CHANGES_NO_WEIGHT, "base", "onto", "suite"}
        return {key: value for key, value in self.model_dump().items() if key not in left_out}

    def problems(self, num_models: int) -> list[str]:
        """What is wrong with these settings for so many models."""
        found = []
        if not self.fewest <= num_models <= self.most:
            wanted = f"{self.fewest}" if self.most == self.fewest else f"{self.fewest} or more"
            found.append(f"from: {self.name} merges {wanted} models, not {num_models}")
        given = getattr(self, "weights", None)
        if given is not None and len(given) != num_models:
            found.append(
                f"merge.weights: {len(given)} numbers for {num_models} models; write one for each in from:"
            )
        return found


def _finite(values: list[float] | None) -> list[float] | None:
    if values is not None and not all(math.isfinite(value) for value in values):
        raise ValueError(f"must be numbers, not {values}")
    return values


class Soup(Method):
    """Average of weights: sum_k s_k w_k with sum_k s_k = 1; without `weights` each has 1/K.

    Equal models give themselves, bit for bit; so does a model whose weight is 1. A soup of stages that
    trained adapters averages what the adapters made of the dense weights, not their factors: stages
    leave dense weights in `checkpoint/`.

    Fails: models of different initialisations, or far apart (a barrier between them).
    Source: Wortsman et al. 2022, arXiv:2203.05482, eq. in section 2; `methods.md` B08.
    """

    fewest: ClassVar[int] = 1

    method: Literal["soup"]
    weights: list[float] | None = Field(default=None, min_length=1)

    _numbers = field_validator("weights")(_finite)

    @field_validator("weights")
    @classmethod
    def _is_average(cls, weights: list[float] | None) -> list[float] | None:
        if weights is None:
            return None
        if min(weights) < 0:
            raise ValueError(
                f"{min(weights):g} is negative, and a soup is an average; method: task_arithmetic subtracts"
            )
        if abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"sum to {sum(weights):g}, and those of a soup sum to 1")
        return weights


class GreedySoup(Method):
    """Average of the models that help: best first, each kept while the average's score does not fall.

    The models are sorted by their score (ties: as in `from`); the best is in; each further one stays
    in if the uniform average with it scores at least as high as without it. K + K - 1 measurements.

    Settings:
        suite: a suite of its own, whose items the chain's report does not score.
        probe: the one of its probes that decides.

    Source: Wortsman et al. 2022, arXiv:2203.05482, recipe 1.
    """

    method: Literal["greedy_soup"]
    suite: str = Field(
        description="a suite that the report does not use: configs/probes/<dev>.yaml"
    )
    probe: str


class Slerp(Method):
    """Along the great circle between two models: sin((1-t) o)/sin(o) w_1 + sin(t o)/sin(o) w_2.

    o is the angle between the two tensors as vectors, each tensor for itself. Where sin(o) < 1e-6, or one of
    them is zero, the straight line. t 0 and 1 give the models, bit for bit. Of two fine-tuned models
    of one base o is small, and the result is the average but for O(o^2).

    Source: Shoemake 1985, doi:10.1145/325165.325242.
    """

    most: ClassVar[float] = 2

    method: Literal["slerp"]
    t: float = Field(default=0.5, ge=0, le=1)


class Layerwise(Method):
    """Between two models, with a share of its own for each block of layers (AMA): a_b w_1 + (1 - a_b) w_2.

    w_1 is the earlier model (before alignment), w_2 the later one. Blocks: `blocks` groups of layers of equal
    depth, from the embeddings up, and the head (final norm and output rows). With u = `tilts`,

        a_b = alpha (sigmoid(u_b) + epsilon) / sum_c (sigmoid(u_c) + epsilon) * num_blocks,

    whose mean over blocks is alpha exactly. Without `tilts` every block has alpha. With `probe` the tilts are
    searched for, from `tilts` on, such that probe score - penalty * sum_b |a_b - alpha| is large: `rounds`
    times, block by block, a `step` up and down.

    Settings:
        suite: a suite of its own, whose items the chain's report does not score.
        probe: the one of its probes that decides, such as the task's of the later model.

    Source: Lin et al. 2024, arXiv:2309.06256, section 5; `methods.md` P068. There the tilts are learned by
    gradients of a reward's proxy; here a search asks for no more than a number.
    """

    most: ClassVar[float] = 2

    method: Literal["layerwise"]
    alpha: float = Field(default=0.2, gt=0, lt=1)
    blocks: int = Field(default=3, ge=1, description="groups of layers; the head is one more")
    tilts: list[float] | None = None
    epsilon: float = Field(default=0.2, ge=0)
    suite: str | None = None
    probe: str | None = None
    rounds: int = Field(default=1, ge=1)
    step: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    penalty: float = Field(default=1e-4, ge=0, allow_inf_nan=False)

    _numbers = field_validator("tilts")(_finite)

    def alphas(self) -> list[float]:
        """The share of the earlier model in each block, the head last."""
        return block_alphas(self.alpha, self.tilts or [0.0] * (self.blocks + 1), self.epsilon)

    @model_validator(mode="after")
    def _searches(self) -> "Layerwise":
        if (self.suite is None) != (self.probe is None):
            raise ValueError("suite, probe: a search needs both; write both or neither")
        if self.probe is None and (unused := {"rounds", "step", "penalty"} & self.model_fields_set):
            raise ValueError(
                f"{min(unused)}: is of the search for tilts, and there is none; name suite and probe too"
            )
        return self

    @model_validator(mode="after")
    def _shares(self) -> "Layerwise":
        if self.tilts is not None and len(self.tilts) != self.blocks + 1:
            raise ValueError(
                f"tilts: {len(self.tilts)} numbers for {self.blocks} blocks and the head; "
                f"write {self.blocks + 1}"
            )
        if max(self.alphas()) > 1:
            raise ValueError(
                f"tilts: give a block {max(self.alphas()):.3g} of the earlier model; write a smaller alpha, "
                f"or tilts that are closer together"
            )
        return self


class Delta(Method):
    """Methods on task vectors tau_k = w_k - w_0; the result is `onto` + what they make of the tau_k.

    Settings:
        base: the stage that all models come from.
        onto: the stage that the change is added to (rebase), of the same architecture; the base itself unless
            it is named. Where the vocabularies differ in number, common rows are merged and further ones
            copied from whoever has most.
    """

    fewest: ClassVar[int] = 1

    base: str
    onto: str | None = None

    def places(self) -> dict[str, str]:
        """`base`, and `onto` where it is another."""
        return {"base": self.base, **({"onto": self.onto} if self.onto is not None else {})}


class TaskArithmetic(Delta):
    """w = onto + sum_k s_k tau_k; a negative s_k forgets what a model learned.

    Settings:
        weights: s_k; 0.3 to 1 for one model, 0.3 to 0.5 each for many.

    Fails: tau_k that interfere or are large; their norms and cosines are in the manifest (`checks`).
    Source: Ilharco et al. 2023, arXiv:2212.04089, section 2; `methods.md` B09.
    """

    method: Literal["task_arithmetic"]
    weights: list[float] = Field(min_length=1)

    _numbers = field_validator("weights")(_finite)


class _Weighed(Delta):
    """Delta methods whose weights only rank models: none is negative, and 1 each unless said."""

    weights: list[float] | None = Field(default=None, min_length=1)
    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)

    _numbers = field_validator("weights")(_finite)

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: list[float] | None) -> list[float] | None:
        if weights is not None and (min(weights) < 0 or max(weights) == 0):
            raise ValueError(
                f"{weights} must be at least 0, and one of them more; method: task_arithmetic subtracts"
            )
        return weights


class Ties(_Weighed):
    """TRIM, ELECT SIGN, MERGE: w = onto + strength * m, with m the mean of the trimmed tau_k of one sign.

    1. trim: of each tau_k the floor(density * n) entries of largest magnitude stay, at least one, and those
       that equal the smallest of them; the others become 0. n counts a tensor's entries (`scope: tensor`) or
       the whole model's (`scope: global`, the paper's).
    2. elect: g = sign(sum_k s_k tau_k). Where the sum is 0, nobody wins and m is 0.
    3. merge: m = sum of s_k tau_k over the k with sign(tau_k) = g, divided by the sum of those s_k.

    Settings:
        strength: lambda.
        weights: s_k, 1 each unless said.

    Source: Yadav et al. 2023, arXiv:2306.01708, algorithm 1; `methods.md` B12. The paper has no s_k.
    """

    method: Literal["ties"]
    density: float = Field(default=0.2, gt=0, le=1)
    scope: Literal["global", "tensor"] = "global"


class Dare(_Weighed):
    """Drop and rescale: each entry of tau_k becomes 0 with probability `drop`, or else tau_k / (1 - drop).

    dare_linear: w = onto + strength * sum_k s_k tau_k of what is left; dare_ties: TIES's steps 2 and 3 on it.
    The expectation of what is left is tau_k; drop 0 changes nothing, and at 1 nothing is left. Masks
    are drawn from (the stage's seed, the tensor's name, the model's place), so that the order of tensors
    never matters.

    Fails: large tau_k (full fine-tuning, pretraining); use a smaller `drop`.
    Source: Yu et al. 2024, arXiv:2311.03099, eq. 2 and 3; `methods.md` B13.
    """

    method: Literal["dare_linear", "dare_ties"]
    drop: float = Field(default=0.9, ge=0, le=1)


#: The settings under `merge:`, by `method`.
MergeSpec = Annotated[
    Soup | GreedySoup | Slerp | Layerwise | TaskArithmetic | Ties | Dare,
    Field(discriminator="method"),
]
