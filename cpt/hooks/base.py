"""What a hook is, and where it acts.

    hook.recall(past)                    # read what earlier stages left: checkpoints, adapters, exemplars
    data  = hook.mix(data)               # rehearsal, data mixing
    model = hook.adapt(model)            # adapters, freezing
    hook.measure(model)                  # what must be known of earlier models before the first step
    for batch in data:
        loss = task_loss(model, batch) + sum of hook.penalty(model, tokens)
        loss.backward()                  # gradients averaged over ranks and accumulation
        hook.pull(view)                  # closed-form gradient of a parameter-space penalty
        hook.project(view)               # gradient projection; clipping follows
        optimizer.step()
        hook.track(view)                 # moving averages, path integrals
    model = hook.merge(model)            # the last word on the weights
    hook.keep(memory)                    # only what training alone could have measured

A hook is a dataclass whose fields are its settings. It acts only in the stage that lists it; what it needs
from earlier stages is a function of their artifacts. `state_dict` survives an interruption within the stage,
`keep` leaves files to later stages; the two are never mixed.

Several hooks act at a point one after the other, sorted by `order`, then by name, then by their settings, so
that a recipe's order never matters. Where it changes something:

- `pull`: below 0 a hook sees the gradient of the loss alone (si), from 0 on that of some penalties, too.
- `track`: by `track_order` instead. What still moves the weights (a proximal step, an edited update, a
  projection of adapters) comes before what looks at where they have come to (a path, a moving average).
- `merge`: moving averages (0), then adapters (1), then interpolation with earlier weights (2).

At the other points hooks do not see each other's work: terms and rows add up, and one hook at most changes
what is trained (`adapt`) or edits the gradient (`project`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import ConfigDict

from cpt.hooks.card import Card
from cpt.hooks.context import Mixture, StageContext
from cpt.past import Past

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.params import View
    from cpt.quantised import Quantisation
    from cpt.tokens import Tokens

#: A hook of another package imports all that it needs from here.
__all__ = ["LATER", "POINTS", "Hook", "Need", "StageContext", "Told", "points", "points_of"]

#: What a closed-form gradient is reported as: its term's value, and its norm; or other numbers by name.
Told = Mapping[str, "Tensor | float"]
Need = Literal["logits", "parameters", "gradients", "adapter"]
#: Of a setting that a hook was given later: where it has its default, the stage's id stays what it was.
LATER = {"later": True}

#: The points in the order in which they act.
POINTS = (
    "recall",
    "mix",
    "adapt",
    "measure",
    "penalty",
    "pull",
    "project",
    "track",
    "merge",
    "keep",
)


class Hook(Protocol):
    """One method against forgetting. Override the points it needs; the others do nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    facts: ClassVar[frozenset[str]] = frozenset()
    card: ClassVar[Card | None] = None
    version: ClassVar[int] = 1
    kinds: ClassVar[frozenset[str] | None] = None
    order: ClassVar[int] = 0
    #: At `track`: hooks that move the weights (0), that project them (1), that look at them (2, 3).
    track_order: ClassVar[int] = 0
    #: Whether the stages that it recalls must have listed the same hook.
    reads_memory: ClassVar[bool] = False
    #: Whether it has one result, so that a stage can list it once.
    is_single: ClassVar[bool] = False
    #: How many stages it can recall, where each costs memory and time in every step.
    most_stages: ClassVar[int | None] = None

    def needs_as_set(self) -> frozenset[Need]:
        """What it needs of the backend, set as it is: `needs` says what every use of it does."""
        return self.needs

    def facts_as_set(self) -> frozenset[str]:
        """What a backend may refuse of it, set as it is; see `launch.refusals`."""
        return self.facts

    def recalls(self) -> tuple[str, ...]:
        """Earlier stages that the hook reads, by name; `previous`, `base` and `all` count as names."""
        return ()

    def rehearses(self) -> tuple[str, ...]:
        """Those of `recalls` whose exemplars the hook reads, in any format; the base model left none."""
        return ()

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Read what earlier stages left."""
        return

    def mix(self, data: Mixture, ctx: StageContext) -> Mixture:
        """Add rows to what the stage trains on; in the main process only, and not when a stage is resumed."""
        return data

    def quantisation(self) -> "Quantisation | None":
        """How the weights that the stage starts from are held while it trains, where not as they are."""
        return None

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Change what is trained: adapters, freezing."""
        return model

    def measure(self, model: "PreTrainedModel", ctx: StageContext) -> None:
        """Learn what must be known before the first step, such as an importance of each weight.

        `model` has the weights that the stage starts from, also where the stage is resumed.
        """
        return

    def penalty(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor | None":
        """A differentiable term of the loss: this micro-batch's part of a mean over the optimizer step."""
        return None

    def pull(self, view: "View", ctx: StageContext) -> Told | None:
        """Add the closed-form gradient of a parameter-space penalty, once per optimizer step.

        Returns: for the log, the same on every rank: the penalty under "" and what else it tells by name.
        """
        return None

    def project(self, view: "View", ctx: StageContext) -> Told | None:
        """Edit the gradient, after every `pull` and before clipping. Returns: as `pull`."""
        return None

    def track(self, view: "View", ctx: StageContext) -> None:
        """Look at the weights after the optimizer step."""
        return

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Have a say in the stage's final weights."""
        return model

    def keep(self, memory: Path, ctx: StageContext) -> None:
        """Leave files to later stages."""
        return

    def idle(self) -> frozenset[str]:
        """Points at which the hook does nothing, set as it is."""
        return frozenset()

    def bytes_per_weight(self) -> float:
        """What it holds in memory while the stage trains, per trained weight."""
        return 0.0

    def learns_answers(self) -> bool:
        """Whether it can use no row without an answer, whatever the stage itself trains on."""
        return False

    def holds_weights(self) -> bool:
        """Whether it draws the trained weights towards those of earlier stages, set as it is."""
        return False

    def rows_per_step(self) -> tuple[int, ...]:
        """Old rows that its penalty runs in an optimizer step, over all processes: of each of its draws."""
        return ()

    def models_held(self) -> tuple[str, ...]:
        """Earlier stages whose models stay in memory while the stage trains."""
        return ()

    def check(self, kind: str, where: str) -> None:
        """Refuse settings that a stage kind, one of `kinds`, cannot honour.

        Raises:
            PlanError: begins with `where`; says what to write instead.
        """
        return

    def compares(self) -> bool:
        """Whether an earlier stage's model stands beside this one's, so that their shapes must agree."""
        return False

    def compared(self) -> tuple[str, ...]:
        """The stages whose models do; those that are only rehearsed need not."""
        return self.recalls() if self.compares() else ()

    def per_weight(self) -> "tuple[dict[str, Tensor], ...]":
        """What it holds per trained weight, by bare name, in the weights' shapes.

        Where weights are spread over processes, each keeps its part of it from before the first step until
        after the last one: `pull`, `project` and `track` see parts, `merge` and `keep` the whole.
        """
        return ()

    def state_dict(self) -> dict[str, "Tensor"]:
        """What must survive an interruption within the stage."""
        return {}

    def load_state_dict(self, state: Mapping[str, "Tensor"]) -> None:
        """Take back what `state_dict` gave."""
        return


def points(hook: Hook) -> tuple[str, ...]:
    """The points at which a hook acts."""
    return tuple(point for point in points_of(type(hook)) if point not in hook.idle())


def points_of(kind: type[Hook]) -> tuple[str, ...]:
    """The points at which the hooks of a class can act: those that it overrides."""
    return tuple(point for point in POINTS if getattr(kind, point) is not getattr(Hook, point))
