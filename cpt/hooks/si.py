"""Synaptic intelligence: weights are held as firmly as their path through training lowered the loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cpt.anchors import Anchors, normalised
from cpt.errors import HookError
from cpt.hooks.anchored import Anchored
from cpt.hooks.at_anchor import at_anchor, fitted, known_rows, protected
from cpt.hooks.base import Told
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext, Tensors
from cpt.past import Past, PastStage

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cpt.params import View

FILE = "path.safetensors"
#: Numbers that a median is taken of, evenly spread over the weights.
MEDIAN_OF = 1_000_000


@dataclass
class SI(Anchored):
    """strength * sum_s sum_i O_si (w_i - a_si)^2, with O_s measured while stage s was trained.

    Along the path of a stage, o_i += -g_i (w_i' - w_i) over its optimizer steps, g the reduced gradient of
    everything in the loss, before closed-form penalties and clipping, and w' the weights after the step. At
    the end O_i = max(o_i, 0) / (D_i^2 + damping), D_i the whole change. So a stage that is to be protected
    must have listed `si` itself; without `of` it only measures.

    Settings:
        of: the earlier stages that are protected, all of which listed `si`; none by default.
        strength: of the pull, without a half; 0 changes nothing.
        style: gradient or proximal, see `cpt.hooks.anchored`.
        damping: in the denominator, so that weights which hardly moved do not count beyond all bounds.
        damping_unit: median: of the D_i^2 that are not 0; absolute: as it stands.
        normalise: divide O by its mean over the weights.

    Source: Zenke et al. 2017, arXiv:1703.04200, eq. 3 to 5; `methods.md` A04.
    """

    name: ClassVar[str] = "si"
    factor: ClassVar[float] = 2.0
    #: Before other hooks edit the gradient, and behind those that move the weights.
    order: ClassVar[int] = -1
    track_order: ClassVar[int] = 2
    reads_memory: ClassVar[bool] = True
    card: ClassVar = Card(
        family="parameter space",
        formula="""R = strength * sum_s sum_i O_si (w_i - a_si)^2
O_si = max(0, sum over steps of -g_i dw_i) / (D_i^2 + damping)    along stage s; D_i its whole change""",
        when="Where no row of the old stages may be kept, not even for a Fisher, and the stages can list it "
        "from the beginning.",
        cost="Two passes over the trained weights per optimizer step.",
        state="16 (path, gradient of the step, weights before it and at the start); 8 more once it protects",
        fails="It integrates the loss's gradient, so it needs labels; Adam's overshoot makes the path noisy, "
        "and in RL the gradient itself is. On protocol TA it does no more than l2_sp.",
        evidence="academic",
        sources=("Zenke et al. 2017, arXiv:1703.04200, eq. 3 to 5", "methods.md A04"),
    )

    of: str | list[str] = field(default_factory=list)
    damping: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    damping_unit: Literal["median", "absolute"] = "median"
    normalise: bool = True
    path: Tensors = field(default_factory=dict, init=False, repr=False)
    first: Tensors = field(default_factory=dict, init=False, repr=False)
    last: Tensors = field(default_factory=dict, init=False, repr=False)
    gradient: Tensors = field(default_factory=dict, init=False, repr=False)

    def bytes_per_weight(self) -> float:
        """Path, first and last weights, the step's gradient; importance and centre where it protects."""
        return 16.0 + (super().bytes_per_weight() if self.recalls() else 0.0)

    def idle(self) -> frozenset[str]:
        """It measures at any strength."""
        return frozenset()

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Find the stages and what they measured.

        Raises:
            HookError: there is no such stage, or it did not list `si`.
        """
        super().recall(past, ctx)
        for stage in self.stages:
            if self.scale and stage.memory(self.name) is None:
                raise HookError(
                    f"si: {stage.name} measured no path: list si in that stage too, or protect it with ewc, "
                    f"which measures afterwards"
                )

    def measure(self, model: "PreTrainedModel", ctx: StageContext) -> None:
        """Note the first weights; collect the anchors where there are any."""
        self.first = {name: value.float().clone() for name, value in protected(model).items()}
        self.last = dict(self.first)
        if self.stages:
            super().measure(model, ctx)

    def collect(self, model: "PreTrainedModel", ctx: StageContext) -> Anchors:
        """One anchor per stage."""
        from safetensors.torch import load_file

        anchors, own = Anchors(), protected(model)
        for stage in self.stages:
            found = load_file(str(self._file(stage)))
            odd = sorted(own.keys() - found.keys())
            if odd:
                raise HookError(
                    f"si: {stage.name} did not train {odd[0]!r}, and measured no path of it; protect it with "
                    f"ewc, which measures afterwards"
                )
            found = {name: found[name] for name in own}
            with at_anchor(stage, model, ctx) as (_, weights):
                held = known_rows(found, own, stage, model, ctx)
                held = normalised(held) if self.normalise else held
                anchors.add(fitted(weights, own, own), fitted(held, own, None))
        return anchors

    def pull(self, view: "View", ctx: StageContext) -> Told | None:
        """Keep the gradient before anything else edits it; then add the penalty's."""
        for name, _, gradient in view.shards():
            if gradient is None:
                self.gradient.pop(name, None)
            else:
                self.gradient[name] = gradient.float().clone()
        return super().pull(view, ctx) if self.stages else None

    def track(self, view: "View", ctx: StageContext) -> None:
        """o_i += -g_i (w_i' - w_i), behind the proximal step."""
        if self.stages:
            super().track(view, ctx)
        import torch

        for name, weights, _ in view.shards():
            new = weights.float()
            before = self.last.get(name, new).to(new.device)
            if name in self.gradient:
                path = self.path.get(name)
                path = torch.zeros_like(new) if path is None else path.to(new.device)
                self.path[name] = path.addcmul_(self.gradient[name], new - before, value=-1)
            self.last[name] = new.clone()
        self.gradient = {}

    def keep(self, memory: Path, ctx: StageContext) -> None:
        """Leave O to later stages."""
        from safetensors.torch import save_file

        found = path_importance(self.path, self.first, self.last, self.damping, self.damping_unit)
        save_file(
            {name: value.cpu().contiguous() for name, value in found.items()}, str(memory / FILE)
        )

    def per_weight(self) -> "tuple[dict[str, Tensor], ...]":
        """Path, first and last weights; and the anchors."""
        return (self.path, self.first, self.last, *super().per_weight())

    def state_dict(self) -> dict[str, "Tensor"]:
        """The path so far, where it began, and where it is."""
        parts = {"path": self.path, "first": self.first, "last": self.last}
        return {f"{part}/{name}": v for part, held in parts.items() for name, v in held.items()}

    def load_state_dict(self, state: Mapping[str, "Tensor"]) -> None:
        """Take them back."""
        for part in ("path", "first", "last"):
            own = {n.partition("/")[2]: v for n, v in state.items() if n.startswith(f"{part}/")}
            setattr(self, part, own)

    def _file(self, stage: PastStage) -> Path:
        folder = stage.memory(self.name)
        assert folder is not None
        return folder / FILE


def path_importance(
    path: Tensors, first: Tensors, last: Tensors, damping: float, unit: str = "absolute"
) -> Tensors:
    """max(o, 0) / (D^2 + damping) of every weight; 0 of those that no step moved.

    With `unit: median`, damping is multiplied by the median of the D^2 that are not 0.
    """
    import torch

    squares = {
        name: (last[name].to(start.device) - start).square() for name, start in first.items()
    }
    if unit == "median":
        total = sum(value.numel() for value in squares.values())
        every = max(1, total // MEDIAN_OF)
        some = torch.cat([value.flatten()[::every].cpu() for value in squares.values()])
        moved = some[some > 0]
        damping *= float(moved.median()) if len(moved) else 1.0
    return {
        name: path[name].to(square.device).clamp(min=0) / (square + damping)
        if name in path
        else torch.zeros_like(square)
        for name, square in squares.items()
    }
