"""How a finished stage was made, and the plan that gives it again.

Its manifest says so (`how`); for a stage that an earlier version of cpt wrote, a chain of its store does.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from cpt import manifest
from cpt.chain_file import REPORTED, read_chain
from cpt.errors import CptError, RecipeError, StoreError
from cpt.ids import atomic_write
from cpt.manifest import Manifest
from cpt.nodes import Node
from cpt.settings import did_you_mean
from cpt.store import Store
from launch.naming import stage_folder
from launch.opening import Chain, open_chain, shown
from launch.record import runnable


@dataclass(frozen=True)
class Made:
    """A finished stage, and how it was made.

    Attributes:
        command: as it was typed, without secrets.
        recipe: as resolved; empty for a stage by hand.
    """

    folder: Path
    entry: Manifest
    command: str
    recipe: Mapping[str, Any]

    @property
    def store(self) -> Store:
        """The store that it lies in."""
        return Store(self.folder.parent.parent)


def find(name: str, runs: Path) -> Made:
    """A stage by id, folder or link.

    Raises:
        RecipeError: there is none.
        StoreError: nothing says how it was made.
    """
    folder = stage_folder(name, runs)
    if folder is None:
        known = [path.parent.name for path in (runs / "stages").glob("*/manifest.json")]
        hint = did_you_mean(name, known) if known else "; there are none yet"
        raise RecipeError(f"{runs / 'stages'}: no finished stage {name!r}{hint}")
    entry = manifest.read(folder)
    how = entry.how or _of_a_chain(folder, entry.id)
    return Made(folder, entry, str(how.get("command", "")), how.get("recipe", {}))


def _of_a_chain(folder: Path, stage_id: str) -> Mapping[str, Any]:
    """What a chain of the store that has the stage says; for manifests of version 1."""
    for file in sorted((folder.parent.parent / "chains").glob("*/chain.json")):
        try:
            tree = read_chain(file, REPORTED)
        except StoreError:  # damaged; another one may have the stage
            continue
        if any(node["id"] == stage_id for node in tree["nodes"]):
            return tree
    raise StoreError(
        f"{folder}: its manifest is of version 1, which does not say how the stage was made, and no chain "
        f"beside it has the stage; run its chain again, and cpt reproduce knows"
    )


def planned(made: Made, runs: Path, recipe_file: Path | None = None) -> tuple[Chain, str]:
    """The chain that makes the stage, planned for a store, and the command that runs it.

    The recipe where it lay, if that still gives this very stage; else the one that the manifest keeps.

    Args:
        made: the stage.
        runs: the store.
        recipe_file: where the kept recipe is written if it is needed; nowhere: it is not tried.

    Raises:
        StoreError: today's code, data or recipe give another stage; tells in what they differ.
    """
    problems = []
    for path, changes, launch, deterministic in _recipes(made, recipe_file):
        try:
            chain = open_chain(path, changes, runs, launch, deterministic)
        except CptError as error:
            problems.append(str(error))
            continue
        node = node_of(chain, made)
        if chain.plan.recipe.deterministic != bool(made.recipe.get("deterministic")):
            problems.append(f"{path}: makes it in the other of two modes, deterministic or not")
        elif node is not None and node.id == made.entry.id:
            options = [] if launch is None else ["--launch", launch]
            options += ["--deterministic"] if deterministic else []
            until = ["--until", node.stands_for or node.name]
            return chain, shlex.join(["cpt", "run", shown(path), *changes, *options, *until])
        else:
            problems.append(f"{path}: {_why_another(made, node)}")
    raise StoreError(f"{made.entry.id}: cannot be planned again:\n" + "\n".join(problems))


def _recipes(
    made: Made, recipe_file: Path | None
) -> Iterator[tuple[Path, list[str], str | None, bool]]:
    """(recipe, overrides, launch, deterministic) of every recipe that may make the stage."""
    from launch.parser import parser

    found: tuple[Path, list[str], str | None, bool] | None = None
    if made.command.startswith("cpt run "):
        # An earlier version may have had other options; then the kept recipe is what there is.
        with suppress(SystemExit, ValueError), redirect_stderr(StringIO()):
            given = parser().parse_args(shlex.split(made.command)[1:])
            if given.recipe.is_file():
                found = given.recipe, given.changes, given.launch, given.deterministic
    if found is not None:
        yield found
    if recipe_file is not None and made.recipe:
        text = runnable(
            {"recipe": made.recipe, "recipe_path": made.entry.how.get("recipe_path", "")}
        )
        atomic_write(recipe_file, text)
        # The kept recipe says itself whether it was deterministic.
        yield recipe_file, [], made.entry.how.get("launch"), False


def node_of(chain: Chain, made: Made) -> Node | None:
    """The stage's place in a plan: by its id, else by its name."""
    nodes = chain.plan.nodes
    same = [node for node in nodes if node.id == made.entry.id]
    return next(iter(same or [node for node in nodes if node.name == made.entry.name]), None)


def _why_another(made: Made, node: Node | None) -> str:
    if node is None:
        return f"has no stage {made.entry.name}"
    told = manifest.differences(made.entry.inputs, dict(node.inputs))
    which = ", ".join(path for path, _, _ in told[:5]) or "the code's version of the kind"
    return f"its {node.name} is {node.id} now; different are {which}"
