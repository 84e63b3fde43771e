"""What a person writes: a chain, its stages, its hooks; `cpt.read_recipe` reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cpt.data_spec import DataSpec
from cpt.gate_spec import GateSpec
from cpt.keep_spec import KeepSpec
from cpt.merging.spec import MergeSpec
from cpt.model_spec import ModelChange, ModelSpec
from cpt.past import NUM_EXEMPLARS
from cpt.settings import Settings, did_you_mean
from cpt.watch import WatchSpec

#: Under this name the loader notes where a stage or a chain was read; no recipe can say it.
FILE = "<file>"


class HookSpec(Settings):
    """A hook's name and its settings as written."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class HygieneSpec(Settings):
    """Which rows are left out of what a stage trains on, before shares are computed.

    `probes` where nothing is said: rows that are rehearsed must hold no item of the chain's probes, and new
    rows are not looked at. To drop rows makes the stage depend on the suite; to refuse them does not.
    """

    duplicates: Literal["keep", "exact", "near"] = "keep"
    probes: Literal["keep", "drop", "refuse"] | None = None

    def content(self, suite_hash: str) -> dict[str, str]:
        """What enters the content address of a stage: only what leaves rows out."""
        found = {"duplicates": self.duplicates} if self.duplicates != "keep" else {}
        return found | ({"probes": suite_hash} if self.probes == "drop" else {})


class StageSpec(Settings):
    """One stage, complete in itself."""

    kind: str = Field(description="pretrain, sft, dpo, grpo, merge")
    from_: str | list[str] = Field(default="previous", alias="from")
    reference: str | None = Field(
        default=None, description="previous, base or a stage; dpo and grpo"
    )
    reward: str | None = None
    teacher: str | None = None
    merge: MergeSpec | None = Field(default=None, description="how; merge stages only")
    data: list[DataSpec] = Field(default_factory=list, validate_default=True)
    rewards: list[str] = Field(default_factory=list, description="names, or module:function")
    train: dict[str, Any] = Field(default_factory=dict, description="TRL's fields, and batch_size")
    hooks: list[HookSpec] = Field(default_factory=list)
    hygiene: HygieneSpec = Field(
        default=HygieneSpec(), description="duplicates, and items of the chain's probes"
    )
    exemplars: int = Field(
        default=NUM_EXEMPLARS, ge=1, description="rows left for later stages to rehearse"
    )
    model: ModelChange | None = Field(default=None, description="declared changes of the tokenizer")
    micro_batch: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(
        default=None, ge=1, description="steps between checkpoints"
    )
    watch: WatchSpec | Literal[False] | None = Field(
        default=None, description="looks while it trains; the chain's unless said, false: none"
    )
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    file: str = Field(default="", alias="<file>", exclude=True, repr=False)

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @field_validator("data")
    @classmethod
    def _there(cls, value: list[DataSpec], info: ValidationInfo) -> list[DataSpec]:
        # A stage that merges needs none; where `merge` itself is wrong, that is told.
        if not value and info.data.get("merge", ...) is None:
            raise PydanticCustomError("missing", "Field required")
        return value

    @field_validator("hooks", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return [_named_hook(entry) for entry in value] if isinstance(value, list) else value

    def roles(self) -> dict[str, str]:
        """Earlier stages that this one names, by role, without `from`."""
        named = {"reference": self.reference, "reward": self.reward, "teacher": self.teacher}
        return {role: name for role, name in named.items() if name is not None}


class Recipe(Settings):
    """A chain: a model, its stages in order, what is probed, and what a regression does."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: ModelSpec
    stages: dict[str, StageSpec] = Field(min_length=1)
    probes: str | None = Field(default=None, description="a suite in configs/probes")
    gate: GateSpec = GateSpec()
    watch: WatchSpec | None = Field(
        default=None, description="looks at every stage while it trains"
    )
    seed: int = Field(default=17, ge=0, lt=2**32)
    launch: str = Field(default="single", description="a backend: configs/accelerate/<name>.yaml")
    num_processes: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    timeout: float = Field(
        default=30,
        ge=0,
        allow_inf_nan=False,
        description="minutes without a sign of life after which a stage counts as hung; 0: none do",
    )
    keep: KeepSpec = Field(default=KeepSpec(), description="trainer checkpoints, and whose weights")
    trackers: list[str] = Field(
        default_factory=list, description="wandb, tensorboard, ...; with the probe matrix"
    )
    deterministic: bool = Field(
        default=False, description="only kernels that give the same bits each time; no part of ids"
    )
    baseline: Literal["naive", "joint"] | None = Field(
        default=None,
        description="naive: the chain without hooks; joint: without hooks, and each stage on labelled "
        "text trains from the base model on its own data and those of all such stages before it",
    )
    file: str = Field(default="", alias="<file>", exclude=True, repr=False)

    @model_validator(mode="after")
    def _graph(self) -> "Recipe":
        problems = graph_problems(self.stages)
        for name in self.keep.stages if isinstance(self.keep.stages, list) else ():
            if name not in self.stages:
                hint = did_you_mean(name, [*self.stages])
                problems.append(f"keep.stages: {name!r} is no stage{hint}")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def graph_problems(stages: Mapping[str, StageSpec]) -> list[str]:
    """Every reference to a stage that does not come before the one that names it."""
    known = ["base"]
    problems = []
    for name, stage in stages.items():
        if name in ("base", "previous") or not name.replace("_", "").replace("-", "").isalnum():
            problems.append(f"stages: {name!r} is no name for a stage")
        parents = stage.from_ if isinstance(stage.from_, list) else [stage.from_]
        merged = stage.merge.places() if stage.merge else {}
        places = {**stage.roles(), **{f"merge.{role}": place for role, place in merged.items()}}
        for role, target in [*(("from", p) for p in parents), *places.items()]:
            if target in ("previous", *known):
                continue
            fault = "is no stage" + did_you_mean(target, ["previous", *known])
            if target in stages:
                fault = f"does not come before {name}; earlier are: {', '.join(known)}"
            problems.append(f"stages.{name}.{role}: {target!r} {fault}")
        known.append(name)
    return problems


#: Between a file's name and the overrides of what it says.
WITH = " with "


def folder_of(where: str) -> Path:
    """The folder of the file that `StageSpec.file` names."""
    return Path(where.partition(WITH)[0]).parent


def keys(kind: type[Settings]) -> list[str]:
    """What a person can write in the YAML of a kind of settings."""
    return [field.alias or name for name, field in kind.model_fields.items() if not field.exclude]


def _named_hook(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1:
        (name, settings), *_ = entry.items()
        if settings is None or isinstance(settings, dict):
            return {"name": name, "settings": settings or {}}
    if isinstance(entry, HookSpec) or (
        isinstance(entry, dict) and {*entry} == {"name", "settings"}
    ):
        return entry
    raise ValueError(
        f"{entry!r} is no hook; write a name, or one name with its settings, as in - kl: {{beta: 0.05}}"
    )
