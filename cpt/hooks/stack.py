"""The hooks of one stage, acting together: fixed order, sums, one log name each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpt.errors import HookError
from cpt.hooks.base import Hook, points
from cpt.hooks.context import Mixture, StageContext
from cpt.hooks.norms import Norms
from cpt.params import trainable
from cpt.past import Past

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.params import View
    from cpt.quantised import Quantisation
    from cpt.tokens import Tokens


def in_order(hooks: Sequence[Hook]) -> list[tuple[str, Hook]]:
    """(key, hook), sorted so that a recipe's order never matters; a second `replay` is `replay.2`."""
    from cpt.hooks.table import settings_of
    from cpt.ids import canonical

    ranked = sorted(hooks, key=lambda hook: (hook.order, hook.name, canonical(settings_of(hook))))
    seen: dict[str, int] = {}
    keyed = []
    for hook in ranked:
        seen[hook.name] = seen.get(hook.name, 0) + 1
        keyed.append(
            (hook.name if seen[hook.name] == 1 else f"{hook.name}.{seen[hook.name]}", hook)
        )
    return keyed


class HookStack:
    """All hooks of a stage. With none, every method does nothing."""

    def __init__(self, hooks: Sequence[Hook], ctx: StageContext) -> None:
        self.hooks = in_order(hooks)
        self.ctx = ctx
        self.terms: dict[str, Tensor | float] = {}
        #: The trainer's own loss, summed until somebody takes it; only where hooks add terms to it.
        self.task: Tensor | float = 0.0
        #: Sums over the step's gradient: before any hook edits it, and behind each of `edits`.
        self.gradient_sums: list[Tensor | float] = []
        self.norms: Norms | None = None

    def at(self, point: str) -> list[tuple[str, Hook]]:
        """The hooks that act at a point."""
        return [(key, hook) for key, hook in self.hooks if point in points(hook)]

    def recall(self, past: Past) -> None:
        """Let every hook read the past."""
        for _, hook in self.at("recall"):
            hook.recall(past, self.ctx)

    def mix(self, data: Mixture) -> Mixture:
        """Let every hook add rows."""
        for _, hook in self.at("mix"):
            data = hook.mix(data, self.ctx)
        return data

    def quantisation(self) -> "Quantisation | None":
        """How the stage's start is held: one hook at most says so, as one at most changes what is trained."""
        said = (hook.quantisation() for _, hook in self.hooks)
        return next((found for found in said if found is not None), None)

    def adapt(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """Let every hook change what is trained."""
        for _, hook in self.at("adapt"):
            model = hook.adapt(model, self.ctx)
        return model

    def measure(self, model: "PreTrainedModel") -> None:
        """Let hooks look at the model before the first step."""
        for _, hook in self.at("measure"):
            hook.measure(model, self.ctx)

    @property
    def needs_tokens(self) -> bool:
        """Whether any hook has a term in the loss."""
        return bool(self.at("penalty"))

    def penalty(self, model: "nn.Module", tokens: "Tokens") -> "Tensor | None":
        """Sum of the hooks' terms, each logged under its own name."""
        total = None
        for key, hook in self.at("penalty"):
            term = hook.penalty(model, tokens, self.ctx)
            if term is None:
                continue
            self._note(key, term.detach())
            if self.norms is not None and term.requires_grad:
                self.norms.add(key, term)
            total = term if total is None else total + term
        return total

    @property
    def edits(self) -> list[tuple[str, str, Hook]]:
        """(point, key, hook) of everything that edits the gradient, in order."""
        return [(point, *entry) for point in ("pull", "project") for entry in self.at(point)]

    def edit_gradient(self, view: "View") -> None:
        """`pull` of every hook, then `project` of every hook."""
        self.gradient_sums = [_sum(view)]
        for point, key, hook in self.edits:
            told = getattr(hook, point)(view, self.ctx) or {}
            for name, value in told.items():
                # Every rank tells the same, and the log sums over them.
                self._note(f"{key}/{name}".rstrip("/"), value / self.ctx.world.size)
            self.gradient_sums.append(_sum(view))

    def _note(self, name: str, value: "Tensor | float") -> None:
        # Not yet a number: on a GPU that would wait for every micro-batch.
        self.terms[name] = self.terms.get(name, 0.0) + value

    def cut(self, view: "View") -> None:
        """Leave each hook, of what it holds per weight, this process's part."""
        for _, hook in self.hooks:
            for held in hook.per_weight():
                for name in list(held):
                    part = view.cut(name, held[name])
                    if part is None:
                        del held[name]
                    else:
                        held[name] = part

    def gather(self, view: "View") -> None:
        """The inverse of `cut`; all processes must ask for it."""
        names = [name for name, _ in trainable(view.model)]
        for _, hook in self.hooks:
            for held in hook.per_weight():
                for name in names:
                    # A process without a part of this weight takes part, too.
                    if view.world.any(name in held):
                        held[name] = view.whole(name, held.get(name))

    @property
    def edits_gradient(self) -> bool:
        """Whether any hook pulls or projects."""
        return bool(self.at("pull") or self.at("project"))

    def track(self, view: "View") -> None:
        """Let hooks see the weights after a step."""
        for _, hook in sorted(self.at("track"), key=lambda entry: entry[1].track_order):
            hook.track(view, self.ctx)

    def merge(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """Moving averages first, then adapters, then interpolation (`order` of each hook)."""
        for _, hook in self.at("merge"):
            model = hook.merge(model, self.ctx)
        return model

    def keep(self, memory: Path) -> None:
        """Let hooks leave files to later stages."""
        for key, hook in self.at("keep"):
            folder = memory / key
            folder.mkdir(parents=True, exist_ok=True)
            hook.keep(folder, self.ctx)

    def state_dict(self) -> dict[str, "Tensor"]:
        """State of all hooks, each tensor under `key/name`."""
        return {
            f"{key}/{name}": value
            for key, hook in self.hooks
            for name, value in hook.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, "Tensor"]) -> None:
        """Give each hook its part.

        Raises:
            HookError: the state has parts of a hook that this stage does not list.
        """
        keys = {key for key, _ in self.hooks}
        strange = {name.partition("/")[0] for name in state} - keys
        if strange:
            raise HookError(
                f"the saved state has hooks that this stage does not list: {', '.join(sorted(strange))}"
            )
        for key, hook in self.hooks:
            own = {
                n.partition("/")[2]: value
                for n, value in state.items()
                if n.partition("/")[0] == key
            }
            if own:
                hook.load_state_dict(own)

    def take_terms(self) -> dict[str, float]:
        """This process's sum of each term since the last call; for the log."""
        taken = {f"hook/{key}": float(value) for key, value in self.terms.items()}
        self.terms = {}
        return taken


def _sum(view: "View") -> "Tensor | float":
    """The sum of this process's part of the gradient: not finite where a number of it is not."""
    import torch

    total: Tensor | float = 0.0
    for _, _, gradient in view.shards():
        if gradient is not None:
            total = total + gradient.sum(dtype=torch.promote_types(gradient.dtype, torch.float32))
    return total
