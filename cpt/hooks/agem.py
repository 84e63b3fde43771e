"""A-GEM: a step must not raise the mean loss on old rows."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

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

_LAYER = re.compile(r"^.*?\.\d+(?=\.)")


@dataclass
class AGEM(Hook):
    """g <- g - (<g, r> / ||r||^2) r where <g, r> < 0; else g stays as it is, to the bit.

    g is the stage's gradient, accumulated and averaged; r the gradient, at the same weights, of the mean of
    -log p over the label tokens of a fresh draw from the union of the chosen stages' rows. Clipping and the
    optimizer come after, and the step that an adaptive one makes may conflict again; see `space`.

    Settings:
        of: the earlier stages whose exemplars are drawn from; `previous`, `all`, or names.
        source: a data set instead; the base model has no exemplars.
        batch_size: old rows per step; the stage's own batch size unless said.
        every: steps from one r to the next. Above 1, r belongs to earlier weights in between.
        per_layer: edit each layer's gradient (and each other tensor's) by its own <g, r>; a variant that is
            not the paper's.
        space: `gradient` edits g, as the paper does. `update` lets the optimizer make its step of g, weight
            decay included, and edits minus that step as if it were g, so that no preconditioner brings the
            conflict back.

    Source: Chaudhry et al. 2019, arXiv:1812.00420, eq. 11; `methods.md` A08. The mean runs over tokens,
    as the stage's own does. Not here: an average of r over steps (A45), no gradient of any weights.
    """

    name: ClassVar[str] = "agem"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    facts: ClassVar[frozenset[str]] = frozenset({"second_gradient"})
    card: ClassVar = Card(
        family="gradient space",
        formula="""g <- g - (<g, r> / ||r||^2) r    where <g, r> < 0
g    the stage's gradient, before clipping
r    gradient of mean_t -log p(y_t) over the label tokens of old rows, drawn anew
     for every step from the union of the chosen stages, at the present weights""",
        when="When old rows may steer but not be trained on, or beside replay. Its effect is real "
        "but small: where old rows can be replayed, replay keeps far more. space: update with "
        "Adam.",
        cost="One more forward and backward pass over `batch_size` rows per step: about twice the "
        "step at the stage's own batch size.",
        state="4 (fp32, while the gradient is edited; throughout the stage with every > 1; 8 with "
        "space: update)",
        fails="Only the mean loss is held: a single old task may get worse, and Adam's step may "
        "conflict where the gradient no longer does. Small draws are noisy. hook/agem/violated near 0 "
        "in the log means that it does nothing.",
        evidence="academic",
        sources=(
            "Chaudhry et al. 2019, arXiv:1812.00420, eq. 11",
            "methods.md A08",
        ),
    )

    of: str | list[str] | None = None
    source: DataSpec | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    every: Annotated[int, Field(ge=1)] = 1
    per_layer: bool = False
    space: Literal["gradient", "update"] = "gradient"
    rehearsal: Rehearsal | None = field(default=None, init=False, repr=False)
    reference: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    due: list[Any] = field(default_factory=list, init=False, repr=False)
    before: list[Any] = field(default_factory=list, init=False, repr=False)
    told: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.of is not None and self.source is not None:
            raise ValueError("name either `of` (earlier stages) or `source` (a data set)")
        if self.of is None and self.source is None:
            self.of = "all"

    def recalls(self) -> tuple[str, ...]:
        """The stages whose exemplars are read."""
        return named(self.of)

    def rehearses(self) -> tuple[str, ...]:
        """Unless a data set takes their place."""
        return self.recalls()

    def facts_as_set(self) -> frozenset[str]:
        """With `space: update` it moves weights behind the optimizer's step."""
        return self.facts | ({"moves_weights"} if self.space == "update" else set())

    def learns_answers(self) -> bool:
        """The loss on old rows is that of their answers."""
        return True

    def bytes_per_weight(self) -> float:
        """r, in fp32, and with `space: update` the weights before the step."""
        return 4.0 if self.space == "gradient" else 8.0

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read the old rows.

        Raises:
            HookError: there are none with a token to predict.
        """
        found = old_examples(self.name, past, self.of, self.source, ctx)
        union = [example for examples in found.values() for example in examples]
        self.rehearsal = Rehearsal(union, self.batch_size or ctx.batch_size, ctx.seed, self.name)

    def project(self, view: "View", ctx: StageContext) -> Told:
        """Take out of the gradient what raises the loss on old rows; with `space: update`, wait for the step.

        Returns: `violated`, the share of steps (of layers, with `per_layer`) where it did; `cosine` of g and
            r; `grad_norm`, of r. With `space: update` those of the step before.

        Raises:
            HookError: the old rows' gradient is not finite.
        """
        references = self._references(view, ctx)
        if self.space == "update":
            _refuse_16_bits(view)
            self.due = references
            shards = zip(view.shards(), references, strict=True)
            self.before = [weights.to(r.dtype, copy=True) for (_, weights, _), r in shards]
            return self.told
        told, taken = self._conflict(view, [g for _, _, g in view.shards()], references)
        if any(taken):
            edited = zip(view.shards(with_gradient=True), references, taken, strict=True)
            for (_, _, gradient), reference, share in edited:
                if share:
                    assert gradient is not None
                    gradient.sub_(reference, alpha=share)
        return told

    def track(self, view: "View", ctx: StageContext) -> None:
        """With `space: update`, edit the optimizer's step: w + share * r, where g is -(w - w before)."""
        if self.space == "gradient":
            return
        shards = list(view.shards())
        steps: list[Tensor | None] = [
            before.sub_(weights)
            for before, (_, weights, _) in zip(self.before, shards, strict=True)
        ]
        self.told, taken = self._conflict(view, steps, self.due)
        for (_, weights, _), reference, share in zip(shards, self.due, taken, strict=True):
            if share:
                weights.add_(reference, alpha=share)
        self.before, self.due = [], []

    def _conflict(
        self, view: "View", vectors: "list[Tensor | None]", references: "list[Tensor]"
    ) -> tuple[dict[str, float], list[float]]:
        """What is told of g and r, and the share of r that is to be taken from g, by parameter."""
        import torch

        names = [name for name, _, _ in view.shards()]
        groups = _layers(names) if self.per_layer else [list(range(len(names)))]
        products = torch.zeros(len(groups), 3, dtype=torch.float64, device=references[0].device)
        for group, row in zip(groups, products, strict=True):
            for number in group:
                row[0] += inner(vectors[number], references[number])
                row[1] += inner(references[number], references[number])
                row[2] += inner(vectors[number], vectors[number])
        products = view.sum_(products)
        overlap, square, own = products.sum(0).tolist()
        if not math.isfinite(square):
            raise HookError("agem: the gradient of old rows is not finite")
        taken = [0.0] * len(names)
        num_violated = 0
        for group, (dot, norm, _) in zip(groups, products.tolist(), strict=True):
            if dot < 0:
                num_violated += 1
                for number in group:
                    taken[number] = dot / norm
        length = math.sqrt(square * own)
        told = {
            "violated": num_violated / len(groups),
            "cosine": overlap / length if length else 0.0,
            "grad_norm": math.sqrt(square),
        }
        return told, taken

    def _references(self, view: "View", ctx: StageContext) -> "list[Tensor]":
        """r, by parameter; made anew where it is due."""
        assert self.rehearsal is not None
        if self.every == 1:
            return old_gradient(view, self.rehearsal, ctx)
        weights = {name: weight for name, weight, _ in view.shards()}
        if ctx.step % self.every == 0:
            made = old_gradient(view, self.rehearsal, ctx)
            self.reference = dict(zip(weights, made, strict=True))
        # What an interruption brought back lies on the CPU.
        self.reference = {name: r.to(weights[name].device) for name, r in self.reference.items()}
        return [self.reference[name] for name in weights]

    def state_dict(self) -> dict[str, "Tensor"]:
        """The last r, where later steps use it, and what is yet to be told."""
        import torch

        told = {
            f"told/{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in self.told.items()
        }
        return {**{f"reference/{name}": r for name, r in self.reference.items()}, **told}

    def load_state_dict(self, state: Mapping[str, "Tensor"]) -> None:
        """Take both back."""
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "told":
                self.told[name] = float(value)
            else:
                self.reference[name] = value.clone()


def _layers(names: Sequence[str]) -> list[list[int]]:
    """Numbers of the parameters of each layer; a parameter outside of all layers stands alone."""
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        layer = _LAYER.match(name)
        groups.setdefault(layer.group() if layer else name, []).append(number)
    return list(groups.values())


def _refuse_16_bits(view: "View") -> None:
    """Refuse weights in which an edited step is rounded away.

    Raises:
        HookError: says what to write instead.
    """
    for name, weights, _ in view.shards():
        if weights.dtype.itemsize < 4:
            raise HookError(
                f"agem: space: update edits steps that are smaller than {name} can tell in "
                f"{str(weights.dtype).removeprefix('torch.')}; load the model in float32 (dtype: "
                f"float32, and train.bf16 may stay on), or write space: gradient"
            )
