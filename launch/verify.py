"""`cpt verify`: read every byte that stages left, and name each file that is not what was written."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cpt import manifest
from cpt.chain_file import LISTED, read_chain
from cpt.checkpoint import CURVES, remedy
from cpt.errors import StoreError
from cpt.removed_weights import removed_weights
from cpt.store import Store, complete_checkpoints, damaged_files, labels
from cpt.verified import damages, strangers
from launch.gc import size_text
from launch.naming import chain_folder, stage_folder


def verify(names: Sequence[str], runs: Path, say: Callable[[str], None]) -> int:
    """Check stages and chains in full.

    Args:
        names: of stages or chains; all of the runs folder without any.
        runs: that folder.
        say: told of every stage.

    Returns: 1 if anything is damaged, else 0.
    Raises:
        RecipeError: no such stage or chain.
    """
    stages, lines = _chosen(names, runs)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for stage, (found, num_files, num_bytes) in zip(
            stages, pool.map(_checked, stages), strict=True
        ):
            state = f"{len(found)} damaged" if found else "whole"
            say(f"{stage.name}: {num_files} files, {size_text(num_bytes)}: {state}")
            lines += found
    for line in lines:
        say(line)
    are = "all is what was written" if not lines else f"{len(lines)} damaged"
    say(f"{len(stages)} stages: {are}")
    return 1 if lines else 0


def _chosen(names: Sequence[str], runs: Path) -> tuple[list[Path], list[str]]:
    """The stage folders that are meant, and what is wrong with the chains."""
    store, lines = Store(runs), list[str]()
    if not names:
        for folder in sorted(store.root.glob("chains/*/")):
            lines += _of_chain(folder)[1]
        every = store.stages.glob("*")
        return sorted(p for p in every if p.is_dir() and p.suffix in ("", ".partial")), lines
    stages = list[Path]()
    for name in names:
        if stage := stage_folder(name, runs):
            stages.append(stage)
        else:
            more, problems = _of_chain(chain_folder(name, runs))
            stages += more
            lines += problems
    return list(dict.fromkeys(stages)), lines


def _of_chain(folder: Path) -> tuple[list[Path], list[str]]:
    """Stage folders of a chain, finished or begun; its file if that is damaged, and links to what is gone."""
    store = Store(folder.parent.parent)
    try:
        nodes = read_chain(folder / "chain.json", LISTED)["nodes"]
    except StoreError as error:
        return [], [str(error)]
    stages, lines = list[Path](), list[str]()
    for label, node in zip(labels(nodes), nodes, strict=True):
        places = [store.stage(node["id"]), store.partial(node["id"])]
        stages += [place for place in places if place.is_dir()]
        link = folder / label
        if link.is_symlink() and not link.exists():
            lines.append(
                f"{link}: links to {os.readlink(link)}, which is gone; cpt run makes it anew"
            )
    return stages, lines


def _checked(stage: Path) -> tuple[list[str], int, int]:
    """One line for each damaged file of a stage, how many files it has, and their bytes."""
    if stage.suffix == ".partial":
        return _checked_partial(stage)
    try:
        files = manifest.read(stage).files
    except StoreError as error:
        return [str(error)], 0, 0
    removed = removed_weights(stage)
    there = {name: digest for name, digest in files.items() if name not in removed}
    lines = [
        f"{damage.path}: {damage.problem}; {_instead(stage, damage.path)}"
        for damage in damages(stage, there, in_full=True)
    ]
    lines += [f"{damage.path}: {damage.problem}" for damage in strangers(stage, files)]
    results = [*sorted(stage.glob("probes/*.json")), *sorted(stage.glob("gate/*.json"))]
    lines += [line for file in results for line in _not_json(file)]
    sizes = [place.stat().st_size for name in files if (place := stage / name).is_file()]
    return lines, len(there) + len(results), sum(sizes)


def _instead(stage: Path, path: Path) -> str:
    name = path.relative_to(stage).parts[0] if path.is_relative_to(stage) else ""
    if name in CURVES:
        return "only the curves in reports are made of it, and the stage's model is as it was"
    return remedy(stage, stage.name)


def _not_json(file: Path) -> Iterator[str]:
    """A line if a result is no whole JSON."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield f"{file}: is damaged ({error}); remove it, and cpt run makes it anew"


def _checked_partial(partial: Path) -> tuple[list[str], int, int]:
    """The trainer's checkpoints of a stage that is not finished; one that is being written has no mark."""
    lines, num_files, num_bytes = list[str](), 0, 0
    for _, folder in complete_checkpoints(partial / "trainer"):
        sizes = [place.stat().st_size for place in folder.rglob("*") if place.is_file()]
        num_files, num_bytes = num_files + len(sizes), num_bytes + sum(sizes)
        lines += [
            f"{file}: is damaged: its bytes are not the ones that were written; cpt run continues "
            f"from the checkpoint before, or from the start"
            for file in damaged_files(folder)
        ]
    return lines, num_files, num_bytes
