"""Files -> a checked recipe: read, expanded, overridden; everything that is wrong is told at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpt import overrides, yaml12
from cpt.errors import RecipeError
from cpt.inline import PATHS, absolute, expand, expand_data, expand_hook
from cpt.model_spec import ModelSpec
from cpt.recipe import FILE, WITH, Recipe, StageSpec, graph_problems, keys
from cpt.settings import validate


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
    if [*parts[-2:]] == ["watch", "text"]:
        return expand_data(value, folder, text)
    if last == "source" and parts[-2] != "source" and "hooks" in parts[-4:-2]:
        return expand_data(value, folder, text)
    if (
        last == "probes" and len(parts) > 1
    ):  # of a stage's hygiene; the chain's own is a suite's file
        return value
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
