"""What a stage gives its hooks, and what they give its data."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cpt.data import Reader, Rows
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.past import PastStage
from cpt.rehearsal import Example
from cpt.replay.schedule import Schedule
from cpt.rows import Row, RowFormat
from cpt.world import World

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cpt.tokens import OutputHead

#: By name.
Tensors = dict[str, "Tensor"]


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
        learning_rate: of the optimizer step that is under way; NaN where groups of weights differ in it.
        batch_size: sequences, pairs or completions of an optimizer step, over all processes.
        micro_batch: those that one process takes at a time.
        autocast: puts a forward pass into the precision of the trainer's own.
        say: tells the person at the terminal.
        save_adapter: keeps an adapter beside the checkpoint, just before it is merged into the weights.
        samples: tokens of a few rows that the stage trains on.
        declared: loads the weights that the stage starts from as they lie on the disk.
        note: (name, value) of a check, for the manifest; the main process's.
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
    clean: Callable[[str, Sequence[Row]], Sequence[Row]] | None = None
    num_steps: int = 0
    new_rows: int = 0
    learning_rate: float = 0.0
    batch_size: int = 8
    micro_batch: int = 8
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    say: Callable[[str], None] = lambda line: None
    save_adapter: "Callable[[PreTrainedModel], None]" = lambda model: None
    samples: Callable[[], list[list[int]]] = list
    declared: "Callable[[], PreTrainedModel] | None" = None
    note: Callable[[str, object], None] = lambda name, value: None


@dataclass
class Mixture:
    """Rows that the stage will train on, before they become one stream.

    `fresh` are the stage's own sources, `old` what hooks add with a share of the final stream, `notes` what
    the manifest should say of them.
    """

    fresh: list[tuple[DataSpec, Sequence[Row] | Reader]]
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
    rows: Sequence[Row] | Rows | Reader
    share: float
    unit: Literal["tokens", "samples"]
    max_bad: float = MAX_BAD
    in_batches: bool = False
    schedule: Schedule | None = None
