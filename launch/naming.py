"""What a name on the command line means: a stage, a chain, a result file, a checkpoint, a hub model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpt.chain_file import LISTED, read_chain
from cpt.errors import RecipeError


@dataclass(frozen=True)
class Model:
    """Something that has or gets probe results.

    Args:
        label: what it is called in tables.
        name: a checkpoint folder or a hub id, or what was typed for a stage or a file.
        stage: its stage folder, if it is a stage.
        file: a probe result, as `cpt probe --output` writes it, in place of a model.
    """

    label: str
    name: str
    stage: Path | None = None
    revision: str | None = None
    file: Path | None = None

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        if self.revision:
            return f"{self.name}@{self.revision}"
        return str(self.file or self.stage or self.name)

    @property
    def identity(self) -> str:
        """Equal for two names of one model."""
        path = self.file or self.stage or Path(self.name)
        return str(path.resolve()) if path.exists() and not self.revision else self.place

    @property
    def checkpoint(self) -> str:
        """What is loaded.

        Raises:
            RecipeError: there is only a result.
        """
        if self.file is not None:
            raise RecipeError(f"{self.file}: is a probe result, and only a model can answer")
        return str(self.stage / "checkpoint") if self.stage else self.name


def stage_folder(name: str, runs: Path) -> Path | None:
    """The stage folder that a name means: an id, a folder, or a link in a chain; None for a bare model."""
    for folder in (Path(name), runs / "stages" / name):
        if (folder / "manifest.json").is_file():
            return folder.resolve()
    if (
        Path(name).name == "checkpoint"
        and (Path(name).resolve().parent / "manifest.json").is_file()
    ):
        return Path(name).resolve().parent
    return None


def chain_folder(name: str, runs: Path) -> Path:
    """The folder of a chain, by its name or path.

    Raises:
        RecipeError: there is none.
    """
    chains = runs / "chains"
    for folder in (Path(name), chains / name):
        if (folder / "chain.json").is_file():
            return folder.absolute()
    from cpt.settings import did_you_mean  # pydantic: a fifth of a second

    known = [path.parent.name for path in chains.glob("*/chain.json")]
    hint = did_you_mean(name, known) if known else "; cpt run starts one"
    raise RecipeError(f"{chains}: no chain {name!r}{hint}")


def models(
    names: Sequence[str], runs: Path, all_stages: bool = False, against: str | None = None
) -> tuple[list[Model], Model]:
    """The models that names mean, each once, with different labels; and the one to compare with.

    Args:
        all_stages: a chain means all its finished stages, not only the last.
        against: what to compare with; it stands first where it is none of them, and is the first model
            where nothing is said.

    Raises:
        RecipeError: a link to what is gone, a file that is not there, a chain without a finished stage, or
            all stages of no chain.
    """
    found: dict[str, Model] = {}
    if all_stages and not any(_chain(name, runs) for name in names):
        raise RecipeError(f"--stages: none of {', '.join(names)} is a chain")
    for name in names:
        for model in _meant(name, runs, all_stages):
            found.setdefault(model.identity, model)
    reference = next(iter(found)) if against is None else ""
    if against is not None:
        (model,) = _meant(against, runs, all_stages=False)
        reference = model.identity
        found = found if reference in found else {reference: model, **found}
    told = _told_apart(list(found.values()))
    return told, next(model for model in told if model.identity == reference)


def _meant(name: str, runs: Path, all_stages: bool) -> list[Model]:
    path = Path(name)
    if path.is_symlink() and not path.exists():
        raise RecipeError(f"{name}: links to {os.readlink(name)}, which is gone; run it again")
    if folder := stage_folder(name, runs):
        return [Model(folder.name, name, folder)]
    if path.suffix == ".json":
        if not path.is_file():
            raise RecipeError(f"{name}: no such file; cpt probe MODEL --output {name} writes one")
        return [Model(path.stem, name, file=path)]
    if chain := _chain(name, runs):
        return _stages(chain, all_stages)
    if path.is_dir():
        return [Model(path.resolve().name, name)]
    model, _, revision = name.partition("@")
    return [Model(model.rpartition("/")[2], model, revision=revision or None)]


def _chain(name: str, runs: Path) -> Path | None:
    """A chain's folder, unless the name is that of a checkpoint folder."""
    for folder in (Path(name), runs / "chains" / name):
        if (folder / "chain.json").is_file() and not (Path(name) / "config.json").is_file():
            return folder.absolute()
    return None


def _stages(chain: Path, all_stages: bool) -> list[Model]:
    tree = read_chain(chain / "chain.json", LISTED)
    stages = chain.parent.parent / "stages"
    done = [
        (node["name"], stages / node["id"])
        for node in tree["nodes"]
        if (stages / node["id"] / "manifest.json").is_file()
    ]
    if not done:
        raise RecipeError(f"{chain}: has no finished stage yet; cpt run continues it")
    chosen = done if all_stages else done[-1:]
    return [Model(f"{tree['name']}/{name}", folder.name, folder) for name, folder in chosen]


def _told_apart(found: list[Model]) -> list[Model]:
    """Models of one label get their folder or their number too."""
    labels = [model.label for model in found]
    told = list[Model]()
    for number, model in enumerate(found, start=1):
        label = model.label
        if labels.count(label) > 1:
            label = f"{Path(model.place).absolute().parent.name}/{label}"
        if label in [other.label for other in told]:
            label = f"{label} ({number})"
        told.append(replace(model, label=label))
    return told
