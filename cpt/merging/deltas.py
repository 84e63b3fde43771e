"""Settings and cards of the methods on task vectors. Imports no torch.

Legend: w_k the weights of the K models in `from`, w_0 those of `base`, tau_k = w_k - w_0 (a task vector), all
in fp32, of any shape, tensor by tensor; s_k the numbers under `weights`. What comes out has
the number type of the first model. Everything is elementwise.
"""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from cpt.merging.method import Method, finite


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

    _numbers = field_validator("weights")(finite)


class _Weighed(Delta):
    """Delta methods whose weights only rank models: none is negative, and 1 each unless said."""

    weights: list[float] | None = Field(default=None, min_length=1)
    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)

    _numbers = field_validator("weights")(finite)

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
