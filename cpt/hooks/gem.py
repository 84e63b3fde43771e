"""GEM: a step must not raise the loss on the old rows of any chosen stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cpt.data_spec import DataSpec
from cpt.errors import HookError
from cpt.hooks.base import Hook, Need, Told
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.hooks.old_gradient import inner, old_examples, old_gradient
from cpt.old_rows import named
from cpt.past import Past
from cpt.rehearsal import Rehearsal

if TYPE_CHECKING:
    from torch import Tensor

    from cpt.params import View

#: Stages at most: each costs a backward pass a step, and a copy of the gradient in fp32.
MOST = 10
#: Of inner products in fp64, relative to the largest.
ROUNDING = 1e-13


@dataclass
class GEM(Hook):
    """g <- argmin_v ||v - g||^2 with <v, g_k> >= 0 for every k, where any <g, g_k> < 0; else g stays.

    g is the stage's gradient, accumulated and averaged; g_k the gradient, at the same weights, of the mean of
    -log p over the label tokens of a fresh draw from stage k. Solved in the dual, which has as many unknowns
    as there are stages: v = g + sum_k u_k g_k, where u minimises ||g + sum_k u_k g_k||^2 over u_k >= margin.

    Settings:
        of: the earlier stages whose exemplars are drawn from, at most 10; `previous`, `all`, or names.
        source: a data set instead; the base model has no exemplars.
        batch_size: old rows of each stage per step; the stage's own batch size unless said.
        margin: least u_k in a step that is edited; above 0 it also pulls towards old rows. The authors' code
            has 0.5, on a scale that depends on the size of the g_k.

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 8 to 11; `methods.md` A07. The authors' code
    adds a ridge of 1e-3 to the dual for its solver's sake; an active set needs none, as v is unique even
    where the g_k depend on each other.
    """

    name: ClassVar[str] = "gem"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    facts: ClassVar[frozenset[str]] = frozenset({"second_gradient"})
    most_stages: ClassVar[int | None] = MOST
    card: ClassVar = Card(
        family="gradient space",
        formula="""g <- g + sum_k u_k g_k    where any <g, g_k> < 0
u    minimises ||g + sum_k u_k g_k||^2 over u_k >= margin
g    the stage's gradient, before clipping
g_k  gradient of mean_t -log p(y_t) over the label tokens of rows of stage k, drawn
     anew for every step, at the present weights
margin = 0: the nearest v to g with <v, g_k> >= 0 for every k""",
        when="Instead of agem, where each of a few old stages is to be held and not their mean. "
        "Where old rows can be replayed, replay keeps far more.",
        cost="One more forward and backward pass per chosen stage and step, over `batch_size` rows "
        "each: 1 + K times the step at the stage's own batch size.",
        state="4 per stage (fp32, while the gradient is edited)",
        fails="Many stages that disagree leave a step near zero: hook/gem/kept in the log, "
        "||v|| / ||g||, tells. Adam's step may conflict where the gradient no longer does.",
        evidence="academic",
        sources=(
            "Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 8 to 11",
            "methods.md A07",
        ),
    )

    of: str | list[str] | None = None
    source: DataSpec | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    rehearsals: list[Rehearsal] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.of is not None and self.source is not None:
            raise ValueError("name either `of` (earlier stages) or `source` (a data set)")
        if self.of is None and self.source is None:
            self.of = "all"
        if isinstance(self.of, list) and len(set(self.of)) != len(self.of):
            raise ValueError("of: names a stage twice, which constrains nothing twice")

    def recalls(self) -> tuple[str, ...]:
        """The stages whose exemplars are read."""
        return named(self.of)

    def rehearses(self) -> tuple[str, ...]:
        """Unless a data set takes their place."""
        return self.recalls()

    def learns_answers(self) -> bool:
        """The loss on old rows is that of their answers."""
        return True

    def bytes_per_weight(self) -> float:
        """Every g_k, in fp32; `all` counts as the most that there can be."""
        of = self.recalls()
        return 4.0 * (MOST if "all" in of else max(len(of), 1))

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the old rows.

        Raises:
            HookError: there are none with a token to predict, or those of too many stages.
        """
        found = old_examples(self.name, past, self.of, self.source, ctx)
        if len(found) > MOST:
            raise HookError(
                f"gem: of: {len(found)} stages, and each costs a backward pass a step and 4 bytes per "
                f"trained parameter; name {MOST} at most, or use agem"
            )
        size = self.batch_size or ctx.batch_size
        self.rehearsals = [
            Rehearsal(examples, size, ctx.seed, self.name) for examples in found.values()
        ]

    def project(self, view: "View", ctx: StageContext) -> Told:
        """Put the nearest gradient that raises no stage's loss in place of the stage's.

        Returns: `violated`, 1 where the gradient was edited; `kept`, ||v|| / ||g||.

        Raises:
            HookError: a gradient of old rows is not finite.
        """
        import torch

        olds = [old_gradient(view, rehearsal, ctx) for rehearsal in self.rehearsals]
        own = [gradient for _, _, gradient in view.shards()]
        vectors: list[Sequence[Tensor | None]] = [own, *olds]
        size = len(vectors)
        products = torch.zeros(size, size, dtype=torch.float64, device=olds[0][0].device)
        for row in range(size):
            for column in range(row, size):
                for one, other in zip(vectors[row], vectors[column], strict=True):
                    products[row, column] += inner(one, other)
        gram = view.sum_(products).cpu()
        gram = gram.triu() + gram.triu(1).T
        if not bool(gram[1:, 1:].isfinite().all()):
            raise HookError(f"gem: a gradient of old rows at step {ctx.step} is not finite")
        if not bool((gram[0, 1:] < 0).any()):
            return {"violated": 0.0, "kept": 1.0}
        weights = dual(gram.numpy(), self.margin)
        for (_, _, gradient), *parts in zip(view.shards(with_gradient=True), *olds, strict=True):
            assert gradient is not None
            # In fp32, and rounded once.
            total = parts[0].mul_(weights[0])
            for weight, part in zip(weights[1:], parts[1:], strict=True):
                total.add_(part, alpha=weight)
            gradient.add_(total)
        mixed = torch.tensor([1.0, *weights], dtype=torch.float64)
        kept = (mixed @ gram @ mixed).clamp(min=0) / gram[0, 0]
        return {"violated": 1.0, "kept": float(kept.sqrt())}


def dual(gram: Any, margin: float) -> list[float]:
    """u [K] that minimises ||g + sum_k u_k g_k||^2 over u_k >= margin.

    Non-negative least squares with an active set (Lawson and Hanson 1974), in K + 1 dimensions: rows with the
    same inner products as g, g_1, ..., g_K stand for them. All are scaled to length 1, so that old gradients
    of very different sizes are equals.

    Args:
        gram: [K + 1, K + 1], fp64; inner products of g, g_1, ..., g_K.
        margin: see `GEM`.
    """
    import numpy as np
    from scipy.optimize import nnls

    lengths = np.sqrt(np.diag(gram))
    scale = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    # rows @ rows.T is the scaled gram. Where vectors depend on each other, rounding makes a direction that
    # none of them has, and it would be taken for a way out.
    rows = vectors * np.sqrt(np.where(values > ROUNDING * values[-1], values, 0))
    relative = scale[1:] / scale[0]
    start = rows[0] + margin * (relative @ rows[1:])
    beyond, _ = nnls(rows[1:].T, -start, maxiter=100 * len(relative))
    found: list[float] = (margin + beyond / relative).tolist()
    return found
