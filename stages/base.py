"""What a stage kind is, and what it is given. Kinds import torch and TRL inside functions only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from cpt.gate_spec import GateSpec
from cpt.hooks.card import Card
from cpt.joint import Joined
from cpt.recipe import StageSpec
from cpt.rows import Row, RowFormat
from cpt.store import KEPT_CHECKPOINTS
from stages.trl_fields import fields

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Job:
    """Everything that one stage needs, wherever it runs.

    Attributes:
        name, id, spec, seed: of the stage.
        parent: folder of the stage before, or a checkpoint folder or hub id.
        roles: folders (or hub ids) of the reference, reward model and teacher.
        output: the final folder; work happens in `<output>.partial`.
        inputs: what the id hashes, for the manifest.
        backend: its name, and the number of processes it was asked for.
        load: dtype, attention and trust_remote_code for every model of the chain.
        joined: in joint training, the stages whose rows it trains on, itself last; else none.
        suite, suite_hash: probe suite, measured when the stage is done, and what it was when planned.
        gate: the chain's, for what ends a stage while it trains; None by hand.
        twice: whether the suite is measured twice; None: where an accelerator computes.
        candidates: most checkpoints on the way that stay for a gate to choose among.
        how: recipe, command and launch, for the manifest.
        deterministic: only kernels that give the same bits each time.
        trainer_checkpoints: most checkpoints of the trainer that stay while it trains.
    """

    name: str
    id: str
    spec: StageSpec
    seed: int
    parent: str
    roles: Mapping[str, str]
    output: Path
    inputs: Mapping[str, Any]
    parents: Mapping[str, str]
    backend: str = "single"
    num_processes: int = 1
    checkpoint_every: int | None = None
    trackers: tuple[str, ...] = ()
    load: Mapping[str, Any] = field(default_factory=dict)
    suite: Path | None = None
    suite_hash: str = ""
    gate: GateSpec | None = None
    twice: bool | None = False
    store: Path | None = None
    verbose: bool = False
    joined: tuple[Joined, ...] = ()
    candidates: int = 0
    how: Mapping[str, Any] = field(default_factory=dict)
    deterministic: bool = False
    trainer_checkpoints: int = KEPT_CHECKPOINTS

    @property
    def partial(self) -> Path:
        """Where the stage works until it is whole."""
        return self.output.with_name(f"{self.output.name}.partial")


@dataclass
class Encoded:
    """Rows of one source in the trainer's own columns, with the tokens that each costs.

    Attributes:
        kept: which of the source's rows they are; all of them, where nothing is said.
    """

    rows: list[Row]
    num_tokens: list[int]
    num_dropped: int = 0
    kept: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.kept = self.kept or range(len(self.rows))


@dataclass
class Material:
    """What a kind builds its trainer from."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    train: "Dataset"
    held_out: "Dataset | None"
    config: Any
    reference: str | None
    start: str
    job: Job


class StageKind(Protocol):
    """One kind of stage.

    Attributes:
        name: key in a recipe.
        version: raised by hand when the same settings would train differently.
        trains: whether it trains a model; a merge makes one of those that are there.
        config: the TRL config class whose fields `train:` speaks; empty where nothing is trained.
        formats: row formats that it trains on.
        data_formats: those of its own data, where only replay may bring the others.
        roles: which of reference, reward, teacher it can have; `uses` says whether it needs them.
        reduction: whether its loss is a mean over tokens or over sequences.
        sequences_per_row: 2 where a row is a pair.
        joins: whether its rows are tokens with labels, so that joint training can mix them with others'.
        checks_eos: whether the rate of EOS is compared with the parent's.
        card: what `cpt methods` tells of it, beside what its attributes say.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    trains: ClassVar[bool] = True
    config: ClassVar[str]
    formats: ClassVar[tuple[RowFormat, ...]]
    data_formats: ClassVar[tuple[RowFormat, ...] | None] = None
    roles: ClassVar[frozenset[str]] = frozenset()
    reduction: ClassVar[Literal["token", "sequence"]] = "token"
    sequences_per_row: ClassVar[int] = 1
    joins: ClassVar[bool] = False
    checks_eos: ClassVar[bool] = True
    card: ClassVar[Card | None] = None

    def check(self, spec: StageSpec, where: str) -> None:
        """Refuse what this kind cannot honour; when planning.

        Raises:
            RecipeError, PlanError: names the setting and what to write instead.
        """

    def setting(self, spec: StageSpec, name: str) -> Any:
        """A field of `train:` as the trainer will have it: as it was written, or TRL's default."""
        return spec.train.get(name, fields(self.config)[name]["default"])

    def uses(self, role: str, spec: StageSpec) -> bool:
        """Whether the stage, set like this, needs the model of a role; the one place that says so."""
        return role in self.roles

    def reward_contents(self, spec: StageSpec, where: str) -> list[str]:
        """What of the rewards enters the stage's id."""
        return list(spec.rewards)

    def rows_per_step(self, spec: StageSpec) -> int:
        """Rows of the stream that one optimizer step takes."""
        return int(spec.train.get("batch_size", 8))

    def uses_of_a_row(self, spec: StageSpec) -> int:
        """Optimizer steps that use the same rows, one after the other."""
        return 1

    def rows_until(self, spec: StageSpec, step: int) -> int:
        """Rows of the stream that its first `step` optimizer steps have used, where rows are not packed."""
        return -(-step // self.uses_of_a_row(spec)) * self.rows_per_step(spec)

    def pack(self, spec: StageSpec) -> tuple[int, bool] | None:
        """(tokens of a packed row, whether sequences are cut), or None."""
        return None

    def encode(
        self, rows: list[Row], tokenizer: "PreTrainedTokenizerBase", spec: StageSpec
    ) -> Encoded:
        """Rows of any of `formats` -> the trainer's columns."""
        ...

    def trainer(self, material: Material) -> Any:
        """Build the hooked TRL trainer."""
        ...

    def loss_mask(self, inputs: Mapping[str, Any], forward: Mapping[str, Any]) -> "Tensor":
        """[B, T], float: 1 where a position's prediction is in the loss."""
        ...

    def prompts(
        self, rows: list[Row], tokenizer: "PreTrainedTokenizerBase", most: int
    ) -> list[list[int]]:
        """Token ids of a few prompts, for the check that EOS is still emitted."""
        return []
