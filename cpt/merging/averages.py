"""Settings and cards of the methods that average weights. Imports no torch.

Legend: w_k the weights of the K models in `from`, in fp32, of any shape, tensor by tensor; s_k the
numbers under `weights`. Everything is elementwise unless it says otherwise. What comes out has the
number type of the first model.
"""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cpt.merging.layerwise import block_alphas
from cpt.merging.method import Method, finite


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

    _numbers = field_validator("weights")(finite)

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
    epsilon: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    suite: str | None = None
    probe: str | None = None
    rounds: int = Field(default=1, ge=1)
    step: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    penalty: float = Field(default=1e-4, ge=0, allow_inf_nan=False)

    _numbers = field_validator("tilts")(finite)

    def alphas(self) -> list[float]:
        """The share of the earlier model in each block, the head last."""
        return block_alphas(self.alpha, self.tilts or [0.0] * (self.blocks + 1), self.epsilon)

    @model_validator(mode="after")
    def _searches(self) -> "Layerwise":
        if (self.suite is None) != (self.probe is None):
            raise ValueError("suite, probe: a search needs both; write both or neither")
        fields = type(self).model_fields
        unused = [n for n in ("rounds", "step", "penalty") if getattr(self, n) != fields[n].default]
        if self.probe is None and unused:
            raise ValueError(
                f"{unused[0]}: is of the search for tilts, and there is none; name suite and probe too"
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
