"""What a chain leaves for its report and for people: `chain.json`, `recipe.yaml` and numbered links."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cpt import plan as plans
from cpt.chain_file import REPORTED, read_chain
from cpt.ids import atomic_write
from eval.noise import second_of
from eval.probe import result_path
from launch.opening import Chain, shown
from launch.sibling import sibling


def describe(chain: Chain) -> dict[str, Any]:
    """What of a chain its report needs, besides its nodes."""
    recipe = chain.plan.recipe
    suite: dict[str, Any] = {"name": "none", "hash": "none", "probes": {}}
    if chain.suite:
        probes = {
            name: {
                "group": probe.group,
                "facet": probe.facet,
                "direction": probe.direction,
                "owner": probe.owner,
                "metric": probe.metric,
                "margin": chain.gate.rules.margins.get(name),
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
        "gate": {
            **recipe.gate.model_dump(),
            **({"on_regression": "warn"} if recipe.baseline else {}),
            "actions": dict(chain.gate.rules.actions),
        },
    }


def _nodes(chain: Chain) -> list[dict[str, Any]]:
    names = {node.id: node.name for node in chain.plan.nodes}
    return [
        {
            "name": node.name,
            "kind": node.kind,
            "id": node.id,
            "parents": [names[stage_id] for stage_id in node.merged],
            "reference": names.get(node.parents.get("reference", "")),
            "hooks": [key for key, _ in node.hooks],
            **({"stands_for": node.stands_for} if node.stands_for else {}),
        }
        for node in chain.plan.nodes
    ]


def is_linked(chain: Chain) -> bool:
    """Whether `chain.json`, `recipe.yaml` and the links are there and say what is so."""
    description, nodes = _plain(chain)
    folder = chain.store.chain(chain.plan.name)
    made = [node for node in chain.plan.nodes if chain.store.is_done(node.id)]
    return (
        _read(folder / "chain.json") == {**description, "nodes": nodes}
        and (folder / "recipe.yaml").is_file()
        and sum(path.is_symlink() for path in folder.iterdir()) == len(made)
    )


def link(chain: Chain) -> Path:
    """Write `chain.json`, the recipe and the links, unless they say just this already.

    The caller holds the chain's lock.
    """
    if is_linked(chain):
        return chain.store.chain(chain.plan.name)
    description, nodes = _plain(chain)
    folder = chain.store.link_chain(chain.plan.name, nodes, description)
    atomic_write(folder / "recipe.yaml", _recipe(description))
    return folder


def _recipe(description: dict[str, Any]) -> str:
    """The recipe as one file that runs, hooks written as a person writes them."""
    recipe = dict(description["recipe"])
    recipe["stages"] = {
        name: {**stage, "hooks": [{hook["name"]: hook.get("settings", {})} for hook in hooks]}
        if (hooks := stage.get("hooks"))
        else stage
        for name, stage in recipe["stages"].items()
    }
    head = f"# As resolved, overrides applied; from {description['recipe_path']}\n"
    return head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)


def _plain(chain: Chain) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The description and the nodes as they are once JSON was written and read."""
    description, nodes = json.loads(json.dumps([describe(chain), _nodes(chain)], default=str))
    return description, nodes


def _read(file: Path) -> Any:
    """A JSON file's content; None where it is missing or damaged, and will be written anew."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def is_current(folder: Path, chain: Chain, nodes: Sequence[plans.Node]) -> bool:
    """Whether the report is whole, of this version, and newer than everything it shows, its sibling too."""
    from eval.report.content import VERSION

    report = folder / "report.html"
    others = [folder / name for name in ("report.md", "report.json", "matrix.csv")]
    if not all(file.is_file() for file in (report, *others)):
        return False
    with (folder / "report.json").open(encoding="utf-8") as file:
        if not re.match(rf'\{{\s*"version": {VERSION},', file.read(100)):
            return False
    shown = [folder / "chain.json"]
    for node in nodes:
        shown += _shown_of(chain, node.id)
    if other := sibling(folder, lambda text: None):
        shown += [other / "chain.json"]
        for node in read_chain(other / "chain.json", REPORTED)["nodes"]:
            shown += _shown_of(chain, node["id"])
    return all(file.stat().st_mtime <= report.stat().st_mtime for file in shown if file.is_file())


def _shown_of(chain: Chain, stage_id: str) -> list[Path]:
    """What a report shows of a stage. Its verdict is not read from `gate/`, but judged anew of results."""
    stage = chain.store.stage(stage_id)
    found = [stage / "manifest.json", *(stage / "watch").glob("*.jsonl")]
    found += (stage / "watch").glob("*/*.json")
    if chain.suite:
        result = result_path(stage, chain.suite)
        found += [result, second_of(result)]
    return found
