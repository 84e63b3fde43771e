"""`cpt reproduce STAGE`: the commands that make a stage again, and whether their result is equal to the bit.

Printing needs no torch.
"""

import shlex
import shutil
from pathlib import Path

from cpt import checkpoint
from cpt.errors import GateStopped, RecipeError, StoreError
from cpt.ids import sha256_file
from cpt.nodes import Node
from cpt.store import Store
from launch.console import Console
from launch.differences import differences, installed
from launch.made import Made, node_of, planned
from launch.opening import shown
from launch.stage_files import files_that_differ
from stages.candidates import link_or_copy


def told(made: Made, runs: Path) -> str:
    """The commands, one a line, and what is different here; for people and for shells."""
    entry = made.entry
    lines = [f"# {entry.id}: {entry.name}, made {entry.finished or 'at an unknown time'}"]
    lines += [f"# warning: {sentence}" for sentence in differences(entry)]
    if commit := entry.code.get("commit"):
        lines.append(shlex.join(["git", "checkout", commit]))
    here = installed()
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
    node = node_of(chain, made)
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


def _seed(source: Store, target: Store, node: Node) -> None:
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
