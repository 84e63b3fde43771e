"""What a chain leaves for its report and for people: `chain.json` and numbered links."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpt import plan as plans
from eval.probe import result_path
from launch.opening import Chain, shown


def describe(chain: Chain) -> dict[str, Any]:
    """What of a chain its report needs, besides its nodes."""
    recipe = chain.plan.recipe
    suite: dict[str, Any] = {"name": "none", "hash": "none", "probes": {}}
    if chain.suite:
        probes = {
            name: {
                "group": probe.group,
                "metric": probe.metric,
                "margin": probe.margin,
                "chat": probe.chat,
            }
            for name, probe in chain.suite.probes.items()
        }
        suite = {"name": chain.suite.name, "hash": chain.suite.hash, "probes": probes}
    return {
        "version": 1,
        "name": chain.plan.name,
        "seed": recipe.seed,
        "baseline": recipe.baseline,
        "recipe": recipe.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
        ),
        "recipe_path": shown(Path(recipe.file)),
        "command": chain.command,
        "suite": suite,
        "gate": recipe.gate.model_dump(),
    }


def _nodes(chain: Chain) -> list[dict[str, Any]]:
    names = {node.id: node.name for node in chain.plan.nodes}
    return [
        {
            "name": node.name,
            "kind": node.kind,
            "id": node.id,
            "parents": [names[node.parents["parent"]]] if "parent" in node.parents else [],
            "reference": names.get(node.parents.get("reference", "")),
            "hooks": [key for key, _ in node.hooks],
        }
        for node in chain.plan.nodes
    ]


def link(chain: Chain, made: Sequence[plans.Node]) -> Path:
    """Write `chain.json` and the links, unless they say just this already."""
    description = json.loads(json.dumps(describe(chain), default=str))
    nodes = json.loads(json.dumps(_nodes(chain), default=str))
    file = chain.store.chain(chain.plan.name) / "chain.json"
    if _read(file) == {**description, "nodes": nodes} and sum(
        path.is_symlink() for path in file.parent.iterdir()
    ) == len(made):
        return file.parent
    return chain.store.link_chain(chain.plan.name, nodes, description)


def _read(file: Path) -> Any:
    """A JSON file's content; None where it is missing or damaged, and will be written anew."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def is_current(folder: Path, chain: Chain, nodes: Sequence[plans.Node]) -> bool:
    """Whether the report is newer than everything it shows."""
    report = folder / "report.html"
    if not report.is_file():
        return False
    shown = [folder / "chain.json"]
    for node in nodes:
        shown.append(chain.store.stage(node.id) / "manifest.json")
        if chain.suite:
            shown.append(result_path(chain.store.stage(node.id), chain.suite))
    return all(file.stat().st_mtime <= report.stat().st_mtime for file in shown if file.is_file())


def sibling(chain: Chain) -> Path | None:
    """The same chain's baseline, or the chain that this is the baseline of, where it has run."""
    name = chain.plan.recipe.name
    other = chain.store.chain(f"{name}-naive" if chain.plan.recipe.baseline is None else name)
    return other if (other / "chain.json").is_file() else None
