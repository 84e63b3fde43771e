"""`chain.json`, read with doubt: disks fill up, people edit, and a report must say which file it was."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cpt.errors import StoreError
from cpt.names import is_part

# What a chain's report reads of it, and what a list of chains does.
REPORTED = ("name", "nodes", "suite", "gate")
LISTED = ("name", "seed", "recipe_path", "nodes")
_CHAIN: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "seed": int,
    "recipe_path": str,
    "recipe": dict,
    "nodes": list,
    "suite": dict,
    "gate": dict,
}
_NODE: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "kind": str,
    "id": str,
    "parents": list,
    "reference": (str, type(None)),
    "hooks": list,
}
_SUITE: dict[str, type | tuple[type, ...]] = {"name": str, "hash": str, "probes": dict}
_GATE: dict[str, type | tuple[type, ...]] = {"margin": (int, float), "on_regression": str}
_MANIFEST: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "hooks": list,
    "data": list,
    "notes": list,
    "world": dict,
    "seconds": dict,
    "memory": dict,
    "packages": dict,
    "code": dict,
}


def read_chain(file: Path, needs: Collection[str]) -> dict[str, Any]:
    """A chain's file.

    Args:
        needs: keys that must be there; `REPORTED` or `LISTED`.

    Raises:
        StoreError: it is missing, is not whole JSON, or has another shape than cpt writes.
    """
    tree = _read(file, "run the chain first", "cpt run writes it anew")
    problem = _fault(tree, _CHAIN, needs)
    for number, node in enumerate(tree["nodes"] if not problem else ()):
        kind = ["kind"] if needs is REPORTED else []
        problem = problem or _fault(node, _NODE, ["name", "id", *kind], f"nodes.{number}.")
        for key in () if problem else ("name", "id"):
            if not is_part(node[key]):
                problem = f"nodes.{number}.{key} is {json.dumps(node[key])[:40]}"
    if not problem and not is_part(tree["name"]):
        problem = f"name is {json.dumps(tree['name'])[:40]}"
    if not problem and needs is REPORTED:
        problem = _fault(tree["suite"], _SUITE, ("name", "hash"), "suite.")
        problem = problem or _fault(tree["gate"], _GATE, _GATE, "gate.")
    if problem:
        raise StoreError(f"{file}: is damaged ({problem}); cpt run writes it anew")
    return dict(tree)


def read_manifest(file: Path) -> dict[str, Any]:
    """A stage's manifest as its report shows it.

    Raises:
        StoreError: it is missing, is not whole JSON, or has another shape than cpt writes.
    """
    how = f"move {file.parent.name} away and run again"
    tree = _read(file, "run the chain first", how)
    if problem := _fault(tree, _MANIFEST, ()):
        raise StoreError(f"{file}: is damaged ({problem}); {how}")
    return dict(tree)


def _read(file: Path, when_missing: str, when_damaged: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{file}: no such file; {when_missing}") from None
    except ValueError as error:
        text = "it is empty" if file.stat().st_size == 0 else f"it is not whole JSON: {error}"
        raise StoreError(f"{file}: is damaged ({text}); {when_damaged}") from None


def _fault(
    tree: Any,
    types: Mapping[str, type | tuple[type, ...]],
    needs: Collection[str],
    where: str = "",
) -> str:
    """What is wrong with a mapping, or nothing."""
    if not isinstance(tree, dict):
        return f"{where.rstrip('.') or 'it'} is no mapping"
    for key in needs:
        if key not in tree:
            return f"{where}{key} is missing"
    for key, kind in types.items():
        if key in tree and not isinstance(tree[key], kind):
            return f"{where}{key} is {json.dumps(tree[key])[:40]}"
    return ""
