"""A fresh adapter for each stage, in directions that no earlier adapter reads."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook, Need, Told
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.hooks.lora import APART, hooks_of, merged, wrap
from cpt.old_rows import named
from cpt.past import Past

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cpt.params import View

#: How a factor A is called in a model whose adapter is `default`.
_A = ".lora_A.default.weight"
#: Share of a module's inputs from which on it is said that adapters have used them up.
_NEARLY_ALL = 0.75


@dataclass
class OLora(Hook):
    """LoRA, with a price on the overlap of its inputs' directions with those of earlier adapters.

    R = strength * sum_m sum_j sum |A_k A_j^T| + squared * sum_m sum_j ||A_k A_j^T||_F^2 over modules m and
    earlier stages j, A_k [rank, d_in] of this stage and A_j [rank_j, d_in] of stage j. Earlier adapters are
    in the weights that the stage starts from, so their part of the model is active and frozen. A price, not
    a projection; `projection: hard` is the projection: after each step A_k loses what lies in the span of
    the rows of all A_j, and the overlap is 0.

    The gradient is added in closed form, strength * sign(A_k P^T) P + 2 squared (A_k P^T) P with P the rows
    of all A_j, once per optimizer step (`pull`): the authors' code adds the penalty to the loss of every
    micro-batch, where accumulation multiplies it; and no graph is kept.

    Settings:
        rank, alpha, dropout, targets: as of `lora`; targets are those of the earlier adapters.
        of: earlier stages with adapters that were merged: `all`, a name, or a list; an empty list is LoRA.
        strength, squared: of the two terms. The authors' second term is the norm of the new adapter instead.
        normalise: divide the rows of A_k and A_j by their lengths, so that R is a sum of |cosines|.
        projection: `soft` or `hard`.

    Source: Wang et al. 2023, arXiv:2310.14152, eq. 8 and the authors' code; `methods.md` A14.
    """

    name: ClassVar[str] = "o_lora"
    needs: ClassVar[frozenset[Need]] = frozenset({"adapter", "parameters", "gradients"})
    card: ClassVar = Card(
        family="isolation",
        formula="""y = W x + (alpha / rank) B_k A_k x, earlier adapters within W
R = strength * sum_m sum_j sum |A_k A_j^T| + squared * sum_m sum_j ||A_k A_j^T||_F^2
m modules, j earlier stages, A [rank, d_in]; added to the gradient once per step
projection: hard  A_k <- A_k - A_k Q Q^T after each step, Q an orthonormal basis of all rows of A_j""",
        when="Several tasks in sequence without routing, each learnt with an adapter that is merged. "
        "Strength 0.5, up to 5 on late tasks; rank 8 to 16.",
        cost="A product of the adapters' A with each earlier one, once per step; no extra forward.",
        state="0 (all earlier A lie in memory, as large as the adapters themselves)",
        fails="About d_in / rank tasks fill a module. Orthogonal A keep outputs apart only where "
        "inputs are not correlated, and forbid transfer between tasks that are alike. R grows with "
        "the length of A's rows; normalise takes that out. Look at the overlap in the log.",
        evidence="research",
        sources=(
            "Wang et al. 2023, arXiv:2310.14152, eq. 8",
            "methods.md A14, F16",
        ),
    )
    order: ClassVar[int] = 1
    #: What it forbids holds behind every other move.
    track_order: ClassVar[int] = 1

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = field(default="all-linear")
    of: str | list[str] = "all"
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    squared: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    normalise: bool = False
    projection: Literal["soft", "hard"] = "soft"
    earlier: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    basis: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def recalls(self) -> tuple[str, ...]:
        """The stages whose adapters are avoided."""
        return named(self.of)

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the earlier factors: name of A -> the rows of all of them, [sum of ranks, d_in].

        Raises:
            HookError: a stage has no adapter, has one on other modules, or keeps it off the weights.
        """
        import torch

        from cpt.adapters import weights

        rows: dict[str, list[Tensor]] = {}
        stages = [s for s in past.select(self.of) if self.of != "all" or s.kind != "base"]
        for stage in stages:
            if problem := self.differs(hooks_of(stage), stage.name):
                raise HookError(f"o_lora: {problem}")
            assert stage.adapter is not None
            factors = weights(stage.adapter)
            for name in (name for name in factors if name.endswith(_A)):
                rows.setdefault(name, []).append(factors[name].float())
        for name, found in rows.items():
            if len(found) < len(stages):
                raise HookError(
                    f"o_lora: not every earlier adapter has {name!r}; name fewer in `of`"
                )
            self.earlier[name] = torch.cat(found)

    def differs(self, theirs: Mapping[str, Mapping[str, Any]], stage: str) -> str:
        """Why this stage cannot stand orthogonal to an earlier one's adapter; empty where it can.

        Args:
            theirs: the earlier stage's hooks and their settings.
            stage: its name.
        """
        settings = theirs.get("lora") or theirs.get("o_lora")
        if settings is None:
            return f"{stage} trained no adapter; name the stages that did: of: [...]"
        if settings.get("after") in APART:
            return (
                f"the weights lack the adapter of {stage}, which it keeps apart; let it say after: merge, "
                f"or name other stages: of: [...]"
            )
        if settings["targets"] != self.targets:
            return (
                f"{stage} trained an adapter on {settings['targets']}, and this stage on {self.targets}; "
                f"use the same targets"
            )
        return ""

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """A fresh adapter; in the hard variant orthogonal from the start.

        Raises:
            HookError: an earlier adapter is on other modules, or leaves the new one no direction.
        """
        adapted = wrap(model, self.name, self.rank, self.alpha, self.dropout, self.targets)
        own = dict(_factors(adapted))
        odd = sorted(own.keys() ^ self.earlier.keys()) if self.earlier else []
        odd += sorted(n for n, rows in self.earlier.items() if rows.shape[1] != own[n].shape[1])
        if odd:
            raise HookError(
                f"o_lora: the earlier adapters are on other modules than this one, such as {odd[0]!r}; "
                f"use the same targets"
            )
        self._check_room(own, ctx)
        for name, rows in self.earlier.items():
            self.earlier[name] = rows.to(own[name].device)
            if self.projection == "hard":
                self.basis[name] = _basis(self.earlier[name])
        self._project(_factors(adapted))
        return adapted

    def _check_room(self, own: Mapping[str, "Tensor"], ctx: StageContext) -> None:
        """Adapters use up the inputs of a module: about d_in / rank of them fit."""
        if not self.earlier:
            return
        shares = {n: (len(self.earlier[n]) + self.rank) / own[n].shape[1] for n in self.earlier}
        name = max(shares, key=lambda n: shares[n])
        used = (
            f"{len(self.earlier[name])} + {self.rank} of the {own[name].shape[1]} inputs of {name}"
        )
        if self.projection == "hard" and shares[name] > 1:
            raise HookError(
                f"o_lora: adapters would take {used}; lower rank, or name fewer in `of`"
            )
        if shares[name] > _NEARLY_ALL and ctx.world.is_main:
            ctx.say(
                f"note: o_lora: adapters take {used}: hardly any direction is left to later stages"
            )

    def pull(self, view: "View", ctx: StageContext) -> Told | None:
        """dR / dA_k. Tells R, the norm of dR / dA, the largest |entry| of all A_k A_j^T (or |cosine|)."""
        import torch

        if not self.earlier or self.projection == "hard" or not (self.strength or self.squared):
            return None
        total: Any = 0.0
        square: Any = 0.0
        largest: list[Tensor] = []
        parts = {name: (weights, gradient) for name, weights, gradient in view.shards()}
        for name, earlier in self.earlier.items():
            # The factor as a whole: a process may hold a part of a row.
            part, gradient = parts.get(name, (None, None))
            rows, own = earlier, view.whole(name, part).float()
            lengths = own.norm(dim=1, keepdim=True).clamp(min=torch.finfo(own.dtype).tiny)
            if self.normalise:
                rows = torch.nn.functional.normalize(rows, dim=1)
                own = own / lengths
            overlap = own @ rows.T  # [rank, sum of earlier ranks]
            total = (
                total + self.strength * overlap.abs().sum() + self.squared * overlap.square().sum()
            )
            largest.append(overlap.abs().max())
            slope = (self.strength * overlap.sign() + 2 * self.squared * overlap) @ rows
            if self.normalise:  # the derivative of a row over its length
                slope = (slope - (slope * own).sum(1, keepdim=True) * own) / lengths
            square = square + slope.square().sum()
            if gradient is not None:  # a module that no token of the step reached does not move
                own_slope = view.cut(name, slope)
                assert own_slope is not None
                gradient += own_slope.to(gradient.dtype)
        return {
            "": total,
            "grad_norm": square**0.5,
            "largest_overlap": torch.stack(largest).max(),
        }

    def track(self, view: "View", ctx: StageContext) -> None:
        """The hard variant: back into the null space of the earlier A, after the optimizer's step."""
        if self.basis:
            self._project((name, weights) for name, weights, _ in view.shards())

    def facts_as_set(self) -> frozenset[str]:
        """The hard variant moves weights behind the optimizer's step."""
        return frozenset({"moves_weights"} if self.projection == "hard" else ())

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """W + (alpha / rank) B A, and an ordinary model again."""
        self._project(_factors(model))  # a moving average saw the weights before `track`
        return merged(model, ctx)

    def _project(self, factors: "Iterable[tuple[str, Tensor]]") -> None:
        """A <- A - A Q Q^T, row by row, where the variant is hard."""
        import torch

        with torch.no_grad():
            for name, own in factors:
                if name in self.basis:
                    basis = self.basis[name]
                    for _ in range(2):  # the second pass takes what rounding left of the first
                        own -= ((own.float() @ basis) @ basis.T).to(own.dtype)


def _factors(model: Any) -> "Iterator[tuple[str, Tensor]]":
    """(bare name, A [rank, d_in]) of what the stage trains."""
    from cpt.params import trainable

    return ((name, own) for name, own in trainable(model) if name.endswith(_A))


def _basis(rows: "Tensor") -> "Tensor":
    """Orthonormal columns [d_in, s] that span the rows [n, d_in]; s is their rank."""
    import torch

    _, values, vectors = torch.linalg.svd(rows.double(), full_matrices=False)
    is_there = values > values.max() * max(rows.shape) * torch.finfo(torch.float32).eps
    basis: Tensor = vectors[is_there].T.float().contiguous()
    return basis
