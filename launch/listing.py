"""`cpt ls`: every chain with its stages, and what is in no chain. One that is damaged hides no other."""

from pathlib import Path
from typing import Any

from cpt.chain_file import LISTED, read_chain, read_manifest
from cpt.errors import StoreError
from cpt.store import Store, labels


def listing(runs: Path) -> tuple[str, list[str]]:
    """What is in a runs folder.

    Returns: the text, and one sentence for each file that is damaged.
    """
    store, lines, problems = Store(runs), list[str](), list[str]()
    chains = sorted(folder for folder in store.root.glob("chains/*") if not _is_file(folder))
    if not chains and not store.stages.is_dir():
        how = "cpt run recipes/quickstart/chain.yaml starts a chain"
        return f"{runs}: nothing here yet; {how}", []
    listed = set()
    for folder in chains:
        try:
            tree = read_chain(folder / "chain.json", LISTED)
        except StoreError as error:
            lines.append(f"{folder.name}  (damaged)")
            problems.append(str(error))
            continue
        lines.append(f"{tree['name']}  (seed {tree['seed']}, {tree['recipe_path']})")
        for label, node in zip(labels(tree["nodes"]), tree["nodes"], strict=True):
            listed.add(node["id"])
            status = _status(store, folder / label, node, problems)
            number = label.partition("-")[0]
            hooks = " ".join(node.get("hooks", ()))
            lines.append(
                f"  {number} {node['name']:<12} {node['id']:<22} {status:<26} {hooks}".rstrip()
            )
    loose = sorted(
        path.name
        for path in store.stages.glob("*-*")
        if path.name.removesuffix(".partial") not in listed and path.is_dir()
    )
    lines += ["in no chain:", *(f"    {name}" for name in loose)] if loose else []
    return "\n".join(lines), list(dict.fromkeys(problems))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _status(store: Store, link: Path, node: dict[str, Any], problems: list[str]) -> str:
    """What the store says of a stage, and whether that is true."""
    status = store.status(node["id"])
    if status.startswith("done"):
        try:
            read_manifest(store.stage(node["id"]) / "manifest.json")
        except StoreError as error:
            problems.append(str(error))
            return "damaged"
    if not status.startswith("done") and (owner := store.holder(node["id"])):
        return f"under way: {owner.told()}"
    if status == "to do" and link.is_symlink():  # it was there
        return "gone, to be made anew"
    return status
