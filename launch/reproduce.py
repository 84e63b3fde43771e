"""`cpt reproduce STAGE`: commands that make a stage again, what is different here, and whether it is equal.

What a stage was made of is in its manifest (`how`, `packages`, `code`, `machine`, `environment`); for one
that an earlier version of cpt wrote, in a chain of its store. Printing needs no torch.
"""

import functools
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt import checkpoint, manifest
from cpt import plan as plans
from cpt.chain_file import REPORTED, read_chain
from cpt.errors import CptError, GateStopped, RecipeError, StoreError
from cpt.ids import atomic_write, sha256_file
from cpt.machine import machine
from cpt.manifest import Manifest
from cpt.settings import did_you_mean
from cpt.store import Store
from launch.console import Console
from launch.naming import stage_folder
from launch.opening import Chain, open_chain, shown
from launch.record import runnable
from launch.stage_files import files_that_differ
from stages.candidates import link_or_copy
from stages.provenance import code, environment, packages

#: Of these a stage's numbers do not depend, or they are told in another way.
_IGNORED = ("CPT_RUNS", "CPT_CACHE", "SLURM_JOB_ID")
#: What `cpt run` sets for one process, and what accelerate and torchrun set for several.
_BY_RUNNER = re.compile(r"CUDA_VISIBLE_DEVICES|TOKENIZERS_PARALLELISM")
_BY_LAUNCHER = re.compile(
    r"OMP_NUM_THREADS|WORLD_SIZE|LOCAL_WORLD_SIZE|ACCELERATE_\w+|TORCH_NCCL_\w+|NCCL_ASYNC_\w+"
)
_MOST = 12  # packages that are named one by one


@functools.cache
def _installed() -> dict[str, str]:
    """Package -> version; reading a few hundred of them takes a tenth of a second."""
    return packages()


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
    for path, changes, launch in _recipes(made, recipe_file):
        try:
            chain = open_chain(path, changes, runs, launch)
        except CptError as error:
            problems.append(str(error))
            continue
        node = _node(chain, made)
        if node is not None and node.id == made.entry.id:
            options = [] if launch is None else ["--launch", launch]
            until = ["--until", node.stands_for or node.name]
            return chain, shlex.join(["cpt", "run", shown(path), *changes, *options, *until])
        problems.append(f"{path}: {_why_another(made, node)}")
    raise StoreError(f"{made.entry.id}: cannot be planned again:\n" + "\n".join(problems))


def _recipes(made: Made, recipe_file: Path | None) -> Iterator[tuple[Path, list[str], str | None]]:
    """(recipe, overrides, launch) of every recipe that may make the stage."""
    from launch.parser import parser

    if made.command.startswith("cpt run "):
        given = parser().parse_args(shlex.split(made.command)[1:])
        if given.recipe.is_file():
            yield given.recipe, given.changes, given.launch
    if recipe_file is not None and made.recipe:
        text = runnable(
            {"recipe": made.recipe, "recipe_path": made.entry.how.get("recipe_path", "")}
        )
        atomic_write(recipe_file, text)
        yield recipe_file, [], made.entry.how.get("launch")


def _node(chain: Chain, made: Made) -> plans.Node | None:
    """The stage's place in a plan: by its id, else by its name."""
    nodes = chain.plan.nodes
    same = [node for node in nodes if node.id == made.entry.id]
    return next(iter(same or [node for node in nodes if node.name == made.entry.name]), None)


def _why_another(made: Made, node: plans.Node | None) -> str:
    if node is None:
        return f"has no stage {made.entry.name}"
    told = manifest.differences(made.entry.inputs, dict(node.inputs))
    which = ", ".join(path for path, _, _ in told[:5]) or "the code's version of the kind"
    return f"its {node.name} is {node.id} now; different are {which}"


def differences(entry: Manifest) -> list[str]:
    """A sentence for everything of packages, code, machine and environment that is not as it was."""
    found = []
    if entry.code.get("commit"):
        now = code()
        if now.get("commit") != entry.code["commit"]:
            commit = str(now.get("commit"))[:12] if now.get("commit") else "no git checkout"
            found.append(f"code: made with {entry.code['commit'][:12]}, here is {commit}")
        if entry.code.get("dirty") and now.get("diff") != entry.code.get("diff"):
            found.append("code: made with changes that were not committed, and they are not these")
        elif now.get("dirty") and not entry.code.get("dirty"):
            found.append("code: here are changes that are not committed")
    here = _installed()
    other = {n: (v, here.get(n)) for n, v in entry.packages.items() if here.get(n) != v}
    for name, (then, now_version) in list(other.items())[:_MOST]:
        found.append(f"package {name}: made with {then}, here is {now_version or 'none'}")
    if len(other) > _MOST:
        found.append(f"packages: {len(other) - _MOST} more are of other versions")
    trees: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "machine": (entry.machine, machine()),
        "environment": (entry.environment, environment()),
    }
    launched = entry.how.get("launch", "single") != "single"
    for part, (before, here_now) in trees.items():
        for path, left, right in manifest.differences(before, here_now) if before else ():
            if part == "environment" and _is_set_anew(path, right, launched):
                continue
            found.append(f"{part} {path}: made with {_brief(left)}, here is {_brief(right)}")
    return found


def _is_set_anew(variable: str, here: Any, launched: bool) -> bool:
    """Whether a variable decides nothing, or has the value again once the stage runs."""
    if variable in _IGNORED:
        return True
    return here is None and bool(
        _BY_RUNNER.fullmatch(variable) or (launched and _BY_LAUNCHER.fullmatch(variable))
    )


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)[:80]


def told(made: Made, runs: Path) -> str:
    """The commands, one a line, and what is different here; for people and for shells."""
    entry = made.entry
    lines = [f"# {entry.id}: {entry.name}, made {entry.finished or 'at an unknown time'}"]
    lines += [f"# warning: {sentence}" for sentence in differences(entry)]
    if commit := entry.code.get("commit"):
        lines.append(f"git checkout {commit}")
    here = _installed()
    pins = [
        f"{n}=={v}" for n, v in sorted(entry.packages.items()) if n != "cpt" and here.get(n) != v
    ]
    if pins:
        lines.append(shlex.join(["pip", "install", "--no-deps", *pins]))
    if not made.recipe:
        lines.append(f"{made.command or '# made by hand, with a command that nothing kept'}")
        return "\n".join(lines)
    new = f"{runs}-again"
    try:
        lines.append(f"{planned(made, made.store.root)[1]} --runs {shlex.quote(new)}")
    except StoreError as error:
        lines += [f"# warning: {line}" for line in str(error).splitlines()]
        lines.append(f"# made with: {made.command}")
    lines.append("# only this stage, on the parents that are there, and compared:")
    lines.append(shlex.join(["cpt", "reproduce", entry.id, "--runs", str(runs), "--run", new]))
    return "\n".join(lines)


def reproduce(made: Made, target: Path, console: Console) -> int:
    """Make the stage again in a store of its own, on links to its verified parents, and compare.

    Returns: 0 if weights, adapters and exemplars are equal to the bit, else 1.

    Raises:
        StoreError: a parent is gone or damaged, or the stage would be another one.
    """
    from launch.chain import run
    from launch.installed import missing, refuse_missing

    if not made.recipe:
        raise StoreError(
            f"{made.folder}: was made by hand; run this with another output=: {made.command}"
        )
    if target.absolute() == made.store.root:
        raise RecipeError(f"--run {target}: is the stage's own store; name a new folder")
    chain, command = planned(made, made.store.root, target / "recipe.yaml")
    node = _node(chain, made)
    assert node is not None
    checkpoint.verify_stage(made.folder)
    store = Store(target)
    for earlier in chain.plan.nodes[: chain.plan.nodes.index(node)]:
        _seed(made.store, store, earlier)
    chain, command = planned(made, target, target / "recipe.yaml")
    console.say(f"{made.entry.name}: {command} --runs {target}")
    refuse_missing(missing(chain.plan, chain.is_finished))
    try:
        run(chain, console, until=node.stands_for or node.name)
    except GateStopped as stop:  # as it may have done then
        console.say(str(stop))
    again = store.stage(made.entry.id)
    unequal = files_that_differ(made.folder, again, sha256_file)
    for line in unequal:
        print(line)
    print(f"{made.entry.id}: {'differs' if unequal else 'equal to the bit'}: {shown(again)}")
    for sentence in differences(made.entry) if unequal else ():
        print(f"different here: {sentence}")
    return 1 if unequal else 0


def _seed(source: Store, target: Store, node: plans.Node) -> None:
    """Put an earlier stage into a store: links to its files, so that nothing added there is added here.

    Raises:
        StoreError: it is gone, or damaged.
    """
    if target.is_done(node.id):
        return
    if not source.is_done(node.id):
        raise StoreError(
            f"{source.stage(node.id)}: the stage needs {node.name}, which is gone; run its chain again"
        )
    folder = source.stage(node.id)
    checkpoint.verify_stage(folder)
    partial = target.partial(node.id)
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, partial, symlinks=True, copy_function=_link)
    target.publish(node.id)


def _link(source: str, target: str) -> None:
    if Path(source).is_symlink():  # the base model's folder
        Path(target).symlink_to(Path(source).resolve())
    else:
        link_or_copy(Path(source), Path(target))
