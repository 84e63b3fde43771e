"""Probe results as `cpt probe` leaves them, with made-up items: what compares them needs no model."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpt.manifest import Manifest
from cpt.store import Store

SUITE, SUITE_HASH = "small", "5d2e91ab"


def right(share: float, total: int = 400, seed: int = 0) -> list[float]:
    """Items that are right (1) or wrong (0): exactly `share` of them, in an order of the seed."""
    ones = [1.0] * round(share * total) + [0.0] * (total - round(share * total))
    random.Random(seed).shuffle(ones)
    return ones


def flip(items: Sequence[float], lost: int, won: int) -> list[float]:
    """The items with the first `lost` right ones wrong and the first `won` wrong ones right."""
    told, left = [], {1.0: lost, 0.0: won}
    for item in items:
        if left[item]:
            left[item] -= 1
            told.append(1.0 - item)
        else:
            told.append(item)
    return told


def cell(items: Sequence[float], **more: Any) -> dict[str, Any]:
    """One probe's part of a result."""
    rows = [
        {"id": f"i{n}", "value": v, "weight": 1.0, "text": f"question {n}", "answer": f"answer {v}"}
        for n, v in enumerate(items)
    ]
    mean = sum(items) / len(items)
    variance = sum((v - mean) ** 2 for v in items) / max(1, len(items) - 1)
    told = {
        "task": "t",
        "task_version": "1",
        "metric": "acc",
        "group": "knowledge",
        "higher_is_better": True,
        "margin": 0.02,
        "value": mean,
        "stderr": (variance / len(items)) ** 0.5,
        "num_items": len(items),
        "shots": 0,
        "chat": False,
        "fingerprint": "f",
        "items": rows,
        "seconds": 1.5,
    }
    return told | more


def result(
    probes: Mapping[str, Sequence[float] | dict[str, Any]],
    suite: str = SUITE,
    suite_hash: str = SUITE_HASH,
) -> dict[str, Any]:
    """A whole result; a probe is its items or its cell."""
    cells = {n: p if isinstance(p, dict) else cell(p) for n, p in probes.items()}
    head = {"version": 1, "suite": suite, "suite_hash": suite_hash, "stage": "made-up"}
    return {**head, "seconds": 3.0, "packages": {}, "probes": cells}


def write(file: Path, found: Mapping[str, Any]) -> Path:
    """Write a result to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    return file


def stage(runs: Path, stage_id: str, *results: Mapping[str, Any]) -> Path:
    """A finished stage without weights that has these results."""
    store = Store(runs)
    folder = store.partial(stage_id)
    (folder / "checkpoint").mkdir(parents=True)
    kind = stage_id.partition("-")[0]
    Manifest(id=stage_id, kind=kind, name=kind).write(folder)
    for found in results:
        write(folder / "probes" / f"{found['suite']}-{found['suite_hash']}.json", found)
    return store.publish(stage_id)


def chain(runs: Path, name: str, *stage_ids: str) -> Path:
    """A chain of finished stages."""
    nodes = [{"name": stage_id.partition("-")[0], "id": stage_id} for stage_id in stage_ids]
    head = {"name": name, "seed": 1, "recipe_path": "r.yaml"}
    return Store(runs).link_chain(name, nodes, head)
