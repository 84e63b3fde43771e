"""What a person writes: a chain, its stages, its hooks. Read, expanded, overridden and checked here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cpt import overrides, yaml12
from cpt.data import DataSpec
from cpt.errors import RecipeError
from cpt.inline import PATHS, absolute, expand, expand_data, expand_hook
from cpt.model_source import ModelChange, ModelSpec
from cpt.settings import Settings, did_you_mean, validate

#: Under this name the loader notes where a stage or a chain was read; no recipe can say it.
FILE = "<file>"


class GateSpec(Settings):
    """What counts as a regression and what then happens."""

    margin: float = Field(
        default=0.02, ge=0, description="fall that is tolerated, in the probe's unit"
    )
    on_regression: Literal["warn", "stop"] = "warn"


class HookSpec(Settings):
    """A hook's name and its settings as written."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class StageSpec(Settings):
    """One stage, complete in itself."""

    kind: str = Field(description="pretrain, sft, dpo, grpo")
    from_: str | list[str] = Field(default="previous", alias="from")
    reference: str | None = Field(
        default=None, description="previous, base or a stage; dpo and grpo"
    )
    reward: str | None = None
    teacher: str | None = None
    data: list[DataSpec] = Field(min_length=1)
    rewards: list[str] = Field(default_factory=list, description="names, or module:function")
    train: dict[str, Any] = Field(default_factory=dict, description="TRL's fields, and batch_size")
    hooks: list[HookSpec] = Field(default_factory=list)
    model: ModelChange | None = Field(default=None, description="declared changes of the tokenizer")
    micro_batch: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(
        default=None, ge=1, description="steps between checkpoints"
    )
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    file: str = Field(default="", alias="<file>", exclude=True, repr=False)

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

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
    seed: int = Field(default=17, ge=0, lt=2**32)
    launch: str = Field(default="single", description="a backend: configs/accelerate/<name>.yaml")
    num_processes: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    trackers: list[str] = Field(default_factory=list, description="wandb, tensorboard, ...")
    baseline: Literal["naive"] | None = Field(
        default=None, description="naive: the chain without hooks"
    )
    file: str = Field(default="", alias="<file>", exclude=True, repr=False)

    @model_validator(mode="after")
    def _graph(self) -> "Recipe":
        if problems := graph_problems(self.stages):
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
        for role, target in [*(("from", p) for p in parents), *stage.roles().items()]:
            if target in ("previous", *known):
                continue
            fault = "is no stage" + did_you_mean(target, ["previous", *known])
            if target in stages:
                fault = f"does not come before {name}; earlier are: {', '.join(known)}"
            problems.append(f"stages.{name}.{role}: {target!r} {fault}")
        known.append(name)
    return problems


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a chain, inline its stages and configs, apply `path=value` overrides, check everything.

    Raises:
        RecipeError: names file, path, value, and the nearest right word.
    """
    tree = yaml12.load(path)
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path}: a chain is a mapping with name, model, stages; see recipes/smoke"
        )
    if "kind" in tree and "stages" not in tree:
        raise RecipeError(
            f"{path}: is one stage, not a chain; run its chain.yaml, or the stage alone with "
            f"accelerate launch -m launch.stage {path} parent=<folder> output=<folder>"
        )
    problems: list[str] = []
    files: dict[str, str] = {}
    stages: Any = tree.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        try:
            stages[name], files[name] = _stage(stage, path.parent, f"{path}: stages.{name}")
        except RecipeError as error:
            problems.append(str(error))
            stages[name], files[name] = _BROKEN, str(path)
    for key, value in tree.items():
        if key != "stages":
            try:
                tree[key] = expand({key: value}, path.parent, str(path))[key]
            except RecipeError as error:
                problems.append(str(error))
                tree[key] = _BROKEN
    where = str(path)
    for text in changes:
        try:
            parts, value = overrides.split(text)
            value = expand_change(parts, value, text)
            overrides.apply(tree, parts, value, text, keys(Recipe))
        except RecipeError as error:
            problems.append(str(error))
            continue
        if len(parts) > 1 and parts[0] == "stages":
            files[parts[1]] = _changed(files[parts[1]], text)
        else:
            where = _changed(where, text)
    return _check(where, tree, files, problems)


#: Stands for a part of a recipe that could not be read; what is wrong with it is told already.
_BROKEN: Any = type("_Broken", (dict,), {})()


def _changed(where: str, text: str) -> str:
    return f"{where}, {text}" if WITH in where else f"{where}{WITH}{text}"


#: Between a file's name and the overrides of what it says.
WITH = " with "


def folder_of(where: str) -> Path:
    """The folder of the file that `StageSpec.file` names."""
    return Path(where.partition(WITH)[0]).parent


def keys(kind: type[Settings]) -> list[str]:
    """What a person can write in the YAML of a kind of settings."""
    return [field.alias or name for name, field in kind.model_fields.items() if not field.exclude]


def _stage(stage: Any, folder: Path, where: str) -> tuple[dict[str, Any], str]:
    """A stage's tree, and what to call it in errors: its file, or its place in the chain."""
    if isinstance(stage, str):
        file = folder / stage
        if not file.is_file():
            raise RecipeError(f"{where}: {file}: no such file{yaml12.nearest_file(file)}")
        return read_stage(file), str(file)
    if not isinstance(stage, dict):
        raise RecipeError(f"{where}: is a stage file or a mapping, not {stage!r}")
    return expand(stage, folder, where), where


def expand_change(parts: Sequence[str], value: Any, text: str) -> Any:
    """The value of an override as `expand` would have made it; paths count from the current folder.

    Args:
        parts: the override's path.
        value: its value.
        text: the override as written, for errors.

    Raises:
        RecipeError: a config that is not there.
    """
    folder, last = Path.cwd(), parts[-1]
    if parts[0] == "stages" and len(parts) == 2:
        return _stage(value, folder, text)[0]
    if parts[-2:-1] == ["hooks"]:
        return expand_hook(value if last.isdigit() else {last: value}, folder, text, last)
    if parts[-2:-1] == ["data"] and last.isdigit():
        return expand_data(value, folder, text)
    if last == "source" and parts[-2] != "source" and "hooks" in parts[-4:-2]:
        return expand_data(value, folder, text)
    if last in PATHS:
        return absolute({last: value}, folder)[last]
    return expand({last: value}, folder, text)[last]


def read_stage(file: Path) -> dict[str, Any]:
    """Read one stage file and inline its configs; unchecked."""
    stage = yaml12.load(file)
    if not isinstance(stage, dict):
        raise RecipeError(f"{file}: a stage is a mapping with kind, data, train, hooks")
    return expand(stage, file.parent, str(file))


def check_stage(tree: Mapping[str, Any], where: str) -> StageSpec:
    """Check one stage's tree; see `load`."""
    return validate(StageSpec, {**tree, FILE: where}, where)


def _check(
    where: str, tree: dict[str, Any], files: Mapping[str, str], problems: list[str]
) -> Recipe:
    """Check every stage, then the chain; what could not be read has a stand-in, to check the rest."""
    checked: dict[str, Any] = {}
    stages = tree.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        checked[name] = StageSpec.model_construct(kind="unknown", data=[])
        if stage is _BROKEN:
            continue
        try:
            checked[name] = check_stage(stage, files.get(name, f"{where}: stages.{name}"))
        except RecipeError as error:
            problems.append(str(error))
    whole = {**tree, FILE: where.partition(WITH)[0]}
    if isinstance(stages, dict):
        whole["stages"] = checked
    for key in ("model", "probes"):
        if whole.get(key) is _BROKEN:
            whole[key] = ModelSpec.model_construct() if key == "model" else None
    try:
        recipe = validate(Recipe, whole, where)
    except RecipeError as error:
        # Pydantic looks at the graph only where all else is right.
        problems += [str(error), *(f"{where}: {line}" for line in graph_problems(checked))]
    if problems:
        lines = "\n".join(problems).splitlines()
        raise RecipeError("\n".join(dict.fromkeys(lines)))
    return recipe


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
