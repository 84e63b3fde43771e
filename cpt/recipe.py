"""What a person writes: a chain, its stages, its hooks. Read, expanded, overridden and checked here."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cpt import overrides, yaml12
from cpt.data import DataSpec
from cpt.errors import RecipeError
from cpt.model_source import ModelChange, ModelSpec
from cpt.settings import Settings, validate

Roles = Literal["reference", "reward", "teacher"]


class GateSpec(Settings):
    """What counts as a regression and what then happens."""

    margin: float = Field(
        default=0.02, ge=0, description="fall that is tolerated, in the probe's unit"
    )
    on_regression: Literal["warn", "stop"] = "warn"
    level: float = Field(
        default=0.05, gt=0, lt=0.5, description="error level after Holm's correction"
    )


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
    seed: int | None = Field(default=None, ge=0)
    file: str = Field(default="", exclude=True, repr=False)

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
    seed: int = Field(default=17, ge=0)
    launch: str = Field(default="single", description="a backend: configs/accelerate/<name>.yaml")
    num_processes: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    trackers: list[str] = Field(default_factory=list, description="wandb, tensorboard, ...")
    baseline: Literal["naive"] | None = Field(
        default=None, description="naive: the chain without hooks"
    )
    file: str = Field(default="", exclude=True, repr=False)

    @model_validator(mode="after")
    def _graph(self) -> "Recipe":
        known = ["base"]
        for name, stage in self.stages.items():
            if name in ("base", "previous") or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"stages: {name!r} is no name for a stage")
            parents = stage.from_ if isinstance(stage.from_, list) else [stage.from_]
            for role, target in [*(("from", p) for p in parents), *stage.roles().items()]:
                if target != "previous" and target not in known:
                    later = " is not an earlier stage" if target in self.stages else " is no stage"
                    raise ValueError(
                        f"stages.{name}.{role}: {target!r}{later}; earlier are: {', '.join(known)}"
                    )
            known.append(name)
        return self


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
    stages = tree.get("stages")
    files: dict[str, str] = {}
    if isinstance(stages, dict):
        for name, stage in stages.items():
            if isinstance(stage, str):
                file = path.parent / stage
                stages[name] = read_stage(file)
                files[name] = str(file)
            elif isinstance(stage, dict):
                stages[name] = expand(stage, path.parent, f"{path}: stages.{name}")
    tree = {
        key: value if key == "stages" else expand({key: value}, path.parent, str(path))[key]
        for key, value in tree.items()
    }
    for text in changes:
        parts, value = overrides.split(text)
        value = expand({parts[-1]: value}, Path.cwd(), text)[parts[-1]]
        overrides.apply(
            tree, parts, value, text, [name for name in Recipe.model_fields if name != "file"]
        )
        if len(parts) > 1 and parts[0] == "stages" and parts[1] in files:
            files[parts[1]] = f"{files[parts[1]].split(' with ')[0]} with {text}"
    return _check(path, tree, files)


def read_stage(file: Path) -> dict[str, Any]:
    """Read one stage file and inline its configs; unchecked."""
    stage = yaml12.load(file)
    if not isinstance(stage, dict):
        raise RecipeError(f"{file}: a stage is a mapping with kind, data, train, hooks")
    return expand(stage, file.parent, str(file))


def check_stage(tree: Mapping[str, Any], where: str) -> StageSpec:
    """Check one stage's tree; see `load`."""
    return validate(StageSpec, {**tree, "file": where}, where)


def _check(path: Path, tree: dict[str, Any], files: Mapping[str, str]) -> Recipe:
    stages = tree.get("stages")
    problems: list[str] = []
    checked: dict[str, Any] = {}
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        where = files.get(name, f"{path}: stages.{name}")
        if not isinstance(stage, dict):
            problems.append(f"{path}: stages.{name}: is a stage file or a mapping, not {stage!r}")
            continue
        try:
            checked[name] = check_stage(stage, where)
        except RecipeError as error:
            problems.append(str(error))
    whole = {**tree, "file": str(path)}
    if isinstance(stages, dict):
        whole["stages"] = checked
    if problems and not checked:
        raise RecipeError("\n".join(problems))
    try:
        recipe = validate(Recipe, whole, str(path))
    except RecipeError as error:
        # A stage that failed above is missing here: what then misses it is no second mistake.
        raise RecipeError("\n".join([*problems, *([] if problems else [str(error)])])) from None
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


_FILES = (".yaml", ".yml")


def expand(tree: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Inline the configs that `model`, `data` and `source` name, and make their paths absolute."""
    done: dict[str, Any] = {}
    for key, value in tree.items():
        done[key] = value
        if key == "model" and isinstance(value, str):
            done[key] = _inline(value, folder, where) if value.endswith(_FILES) else {"path": value}
        elif key == "data":
            items = value if isinstance(value, list) else [value]
            expanded = [_data(item, folder, where) for item in items]
            done[key] = expanded if isinstance(value, list) else expanded[0]
        elif key == "probes" and isinstance(value, str):
            done[key] = str(_local(value, folder))
        elif key == "hooks" and isinstance(value, list):
            done[key] = [_hook(entry, folder, where) for entry in value]
        if key == "model" and isinstance(done[key], dict) and not isinstance(value, str):
            done[key] = _absolute(done[key], folder)
    return done


def _data(item: Any, folder: Path, where: str) -> Any:
    if isinstance(item, str):
        return (
            _inline(item, folder, where)
            if item.endswith(_FILES)
            else _absolute({"path": item}, folder)
        )
    if isinstance(item, dict) and isinstance(item.get("use"), str):
        rest = {key: value for key, value in item.items() if key != "use"}
        return {**_inline(item["use"], folder, where), **rest}
    return _absolute(item, folder) if isinstance(item, dict) else item


def _hook(entry: Any, folder: Path, where: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {
        name: {
            key: _data(value, folder, f"{where}: {name}") if key == "source" else value
            for key, value in settings.items()
        }
        if isinstance(settings, dict)
        else settings
        for name, settings in entry.items()
    }


def _inline(name: str, folder: Path, where: str) -> dict[str, Any]:
    file = _local(name, folder)
    if not file.is_file():
        raise RecipeError(f"{where}: {file}: no such file{yaml12.nearest_file(file)}")
    config = yaml12.load(file)
    if not isinstance(config, dict):
        raise RecipeError(f"{file}: is a mapping of settings, not {config!r}")
    return _absolute(config, file.parent)


def _absolute(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve what looks like a local path against the folder of the file that says it."""
    done = dict(config)
    for key in ("path", "chat_template", "source"):
        value = config.get(key)
        values = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) and looks_local(item) for item in values):
            resolved = [str(_local(item, folder)) for item in values]
            done[key] = resolved if isinstance(value, list) else resolved[0]
    return done


def looks_local(path: str) -> bool:
    """Whether a path names local files rather than something on the hub: it starts with . / ~ $ or ends in a file type."""
    kinds = (".json", ".jsonl", ".gz", ".parquet", ".txt", ".jinja", ".zst")
    return path.startswith((".", "/", "~", "$")) or path.endswith(kinds)


def _local(path: str, folder: Path) -> Path:
    expanded = Path(os.path.expandvars(path)).expanduser()
    return Path(os.path.normpath(folder.absolute() / expanded))


def _named_hook(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1:
        (name, settings), *_ = entry.items()
        if settings is None or isinstance(settings, dict):
            return {"name": name, "settings": settings or {}}
    if isinstance(entry, dict) and "name" in entry:
        return entry
    if isinstance(entry, HookSpec):
        return entry
    raise ValueError("a hook is a name, or one name with its settings, as in - kl: {beta: 0.05}")
