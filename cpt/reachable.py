"""Which stages anything still needs: what a chain names or a person pins, and all that these came from.

A stage in a folder of its own, started by hand, is known to no chain: pin what it came from.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from cpt import ids, manifest
from cpt.chain_file import LISTED, read_chain
from cpt.errors import RecipeError, StoreError
from cpt.lock_owner import Owner
from cpt.store import Store

#: In the runs folder: one stage a line; a person may write into it.
PINS = "pinned.txt"
_HEAD = "# Stages that cpt gc keeps, with all that they came from; cpt gc --pin and --unpin write this.\n"


def chains(store: Store) -> dict[str, dict[str, Any]]:
    """Name of a chain's folder -> its `chain.json`.

    Raises:
        StoreError: one is damaged; what it needs is not known then.
    """
    folders = sorted(path for path in store.root.glob("chains/*") if path.is_dir())
    return {folder.name: read_chain(folder / "chain.json", LISTED) for folder in folders}


def pinned(store: Store) -> list[str]:
    """The ids that a person pinned."""
    try:
        lines = (store.root / PINS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [word for line in lines if (word := line.partition("#")[0].strip())]


def pin(store: Store, wanted: Sequence[str], unwanted: Sequence[str]) -> list[str]:
    """Pin stages, and unpin others.

    Returns: all that are pinned then.
    Raises:
        RecipeError: no such stage is there, or was pinned.
    """
    # Two may pin at once; a folder that is not there is not made for that.
    with store.chain_lock(PINS) if store.root.is_dir() else nullcontext():
        return _pinned_now(store, wanted, unwanted)


def _pinned_now(store: Store, wanted: Sequence[str], unwanted: Sequence[str]) -> list[str]:
    from cpt.settings import did_you_mean  # pydantic: a fifth of a second

    known, before = sorted(finished(store)), pinned(store)
    for name, names in [*((n, known) for n in wanted), *((n, before) for n in unwanted)]:
        if name not in names:
            what = "finished stage" if names is known else "pinned stage"
            raise RecipeError(f"{store.root}: no {what} {name!r}{did_you_mean(name, names)}")
    after = [name for name in dict.fromkeys([*before, *wanted]) if name not in unwanted]
    ids.atomic_write(store.root / PINS, _HEAD + "".join(f"{name}\n" for name in after))
    return after


def finished(store: Store) -> set[str]:
    """Ids of the stages that were published."""
    return {
        path.parent.name
        for path in store.stages.glob("*/manifest.json")
        if _is_id(path.parent.name)
    }


def _is_id(name: str) -> bool:
    return "." not in name


def reachable(
    store: Store, trees: Mapping[str, Mapping[str, Any]], pins: Iterable[str]
) -> set[str]:
    """Ids of all stages that a chain or a pin needs, finished or not.

    What a stage came from is needed too: its parents and references by role, and its past, whose rows and
    adapters later stages recall.

    Raises:
        StoreError: a manifest is damaged; what its stage needs is not known then.
    """
    waiting = [node["id"] for tree in trees.values() for node in tree["nodes"]] + [*pins]
    found: set[str] = set()
    while waiting:
        stage_id = waiting.pop()
        if stage_id in found:
            continue
        found.add(stage_id)
        if store.is_done(stage_id):
            entry = manifest.read(store.stage(stage_id))
            if entry.id != stage_id:
                raise StoreError(
                    f"{store.stage(stage_id)}: holds {entry.id}; give the folder its own name back"
                )
            waiting += [*entry.parents.values(), *(ancestor.id for ancestor in entry.past)]
    return found


def unnamed_work(store: Store, trees: Mapping[str, Mapping[str, Any]]) -> tuple[str, Owner] | None:
    """A stage that another process makes and no chain names yet, and who makes it.

    A chain is written down once the first new stage of its run is made. Until then nobody can tell which
    finished stages that one is built on.
    """
    named = {node["id"] for tree in trees.values() for node in tree["nodes"]}
    for stage_id, owner in store.holders().items():
        if not stage_id.startswith("chain-") and stage_id not in named:
            return stage_id, owner
    return None
