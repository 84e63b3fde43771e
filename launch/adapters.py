"""`cpt adapters`: the adapters that a chain's stages keep apart, in one folder."""

from pathlib import Path

from cpt import manifest
from cpt.adapters import collect
from cpt.chain_file import LISTED, read_chain
from cpt.errors import RecipeError
from cpt.hooks.lora import APART
from cpt.store import Store


def adapters(recipe: Path, chain: Path | None, runs: Path, output: Path | None) -> str:
    """Collect a chain's adapters.

    Args:
        recipe: its chain.yaml, read where `chain` is None.
        chain: its folder in a runs folder.
        runs: where its stages are.
        output: the folder to write; `adapters` in the chain's folder where None.

    Returns: what was collected, for people.

    Raises:
        RecipeError: no finished stage keeps an adapter apart.
        StoreError: two adapters lie on different bases, or the folder holds other files.
    """
    if chain is None:
        from launch.opening import open_chain

        plan = open_chain(recipe, (), runs).plan
        store, nodes = Store(runs), [(node.name, node.id) for node in plan.nodes]
        chain = store.chain(plan.name)
    else:
        store = Store(chain.parent.parent)
        nodes = [
            (node["name"], node["id"]) for node in read_chain(chain / "chain.json", LISTED)["nodes"]
        ]
    stages = [
        (name, store.stage(stage_id))
        for name, stage_id in nodes
        if store.is_done(stage_id) and _keeps(store.stage(stage_id))
    ]
    if not stages:
        raise RecipeError(
            f"{chain.name}: no finished stage keeps its adapter apart; train one with lora: {{after: keep}}"
        )
    registry = collect(stages, output or chain / "adapters")
    width = max(len(name) for name in registry.adapters)
    lines = [f"{name:{width}}  {entry['stage']}" for name, entry in registry.adapters.items()]
    return "\n".join([*lines, f"adapters: {registry.folder}, on {registry.base_folder}"])


def _keeps(stage: Path) -> bool:
    return any(hook["settings"].get("after") in APART for hook in manifest.read(stage).hooks)
