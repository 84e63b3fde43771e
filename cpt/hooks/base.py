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

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import ConfigDict

from cpt.data import Reader, Rows
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.hooks.card import Card
from cpt.past import Past, PastStage
from cpt.rehearsal import Example
from cpt.replay.schedule import Schedule
from cpt.rows import Row, RowFormat
from cpt.world import World

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cpt.params import View
    from cpt.tokens import OutputHead, Tokens

#: By name.
Tensors = dict[str, "Tensor"]
#: What a closed-form gradient is reported as: its term's value, and its norm; or other numbers by name.
Told = Mapping[str, "Tensor | float"]
Need = Literal["logits", "parameters", "gradients", "adapter"]

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


class Reference(Protocol):
    """A frozen earlier stage, prepared for the backend."""

    head: "OutputHead"

    def hidden(self, forward: Mapping[str, Any]) -> "Tensor":
        """Last hidden states [B, T, H] for the arguments of the trainer's own forward."""
        ...


@dataclass
class StageContext:
    """All that a hook is given besides its arguments.

    Attributes:
        stage: the stage's name.
        kind: the stage's kind.
        formats: row formats that the stage trains on.
        seed: the stage's seed.
        world: the other processes.
        step: optimizer steps done so far.
        start: folder whose weights the stage starts from.
        reference: loads an earlier stage, frozen, for the backend.
        encode: rows of texts, chats, completions or pairs (their chosen answers) -> tokens and labels.
        load: an earlier stage's model, to be measured and thrown away.
        cached: (key, how it is made) -> tensors that are made once: by the main process or by all of them
            together, and kept beside the stages.
        num_steps: optimizer steps of the whole stage, once its data are there.
        clean: (name, rows that are rehearsed beside the stream) -> those that the stage's hygiene leaves.
        new_rows: embeddings that the stage itself has added for new tokens.
        learning_rate: of the optimizer step that is under way.
        batch_size: sequences, pairs or completions of an optimizer step, over all processes.
        micro_batch: those that one process takes at a time.
        autocast: puts a forward pass into the precision of the trainer's own.
        say: tells the person at the terminal.
        save_adapter: keeps an adapter beside the checkpoint, just before it is merged into the weights.
    """

    stage: str
    kind: str
    formats: tuple[RowFormat, ...]
    seed: int
    world: World
    start: str
    step: int = 0
    reference: Callable[[PastStage], Reference] | None = None
    encode: Callable[[Sequence[Row]], list[Example]] | None = None
    load: "Callable[[PastStage], PreTrainedModel] | None" = None
    cached: "Callable[[object, Callable[[], Tensors]], Tensors] | None" = None
    clean: Callable[[str, list[Row]], list[Row]] | None = None
    num_steps: int = 0
    new_rows: int = 0
    learning_rate: float = 0.0
    batch_size: int = 8
    micro_batch: int = 8
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    say: Callable[[str], None] = lambda line: None
    save_adapter: "Callable[[PreTrainedModel], None]" = lambda model: None


#: Of a setting that a hook was given later: where it has its default, the stage's id stays what it was.
LATER = {"later": True}


@dataclass
class Mixture:
    """Rows that the stage will train on, before they become one stream.

    `fresh` are the stage's own sources, `old` what hooks add with a share of the final stream, `notes` what
    the manifest should say of them.
    """

    fresh: list[tuple[DataSpec, list[Row] | Reader]]
    old: list["OldRows"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OldRows:
    """Rows of earlier stages, or of a general corpus, with their share of the final stream.

    Attributes:
        in_batches: every batch has its share, rather than the stream.
        schedule: the share over the stage, where it changes.
    """

    name: str
    rows: list[Row] | Rows | Reader
    share: float
    unit: Literal["tokens", "samples"]
    max_bad: float = MAX_BAD
    in_batches: bool = False
    schedule: Schedule | None = None


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
