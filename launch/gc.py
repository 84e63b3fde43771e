"""`cpt gc`: remove what nobody needs any more; see `cpt.retention`."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpt.errors import RecipeError
from cpt.reachable import chains, pin, pinned, reachable, unnamed_work
from cpt.retention import Item, leftovers, remove
from cpt.store import Store


class Busy(Exception):  # noqa: N818 - no mistake, a process at work
    """Somebody makes the stage now."""


def gc(given: argparse.Namespace) -> int:
    """List what can go, and remove it.

    Raises:
        RecipeError: no such stage to pin or unpin.
        StoreError: a chain or a manifest is damaged, so that it is not known what it needs.
    """
    store = Store(given.runs)
    if given.pin or given.unpin:
        # A link in a chain means its stage.
        wanted, unwanted = (
            [Path(name).resolve().name for name in names] for names in (given.pin, given.unpin)
        )
        after = pin(store, wanted, unwanted)
        print("pinned: " + (", ".join(after) or "nothing"))
        return 0
    if not store.root.is_dir():
        raise RecipeError(f"{given.runs}: nothing is here; name another folder with --runs")
    found = _found(store, given.older)
    chosen = [item for item in found if given.stages or not item.is_stage]
    done = [item for item in chosen if _goes(store, item, given.older, given.dry_run)]
    what = "to be removed (--dry-run)" if given.dry_run else "removed"
    print(f"{len(done)} {what}, {size_text(sum(item.num_bytes for item in done))}")
    if spared := [item for item in found if item.is_stage and not given.stages]:
        print(
            f"{len(spared)} finished stages in no chain hold "
            f"{size_text(sum(item.num_bytes for item in spared))}: --stages removes them, --pin keeps one"
        )
    return 0


def _found(store: Store, older: float, only: str | None = None) -> list[Item]:
    """What can go as the store is now."""
    trees, pins = chains(store), pinned(store)
    return leftovers(store, trees, reachable(store, trees, pins), pins, older, only)


def _goes(store: Store, item: Item, older: float, is_rehearsal: bool) -> bool:
    """Remove one item, or say that it would go."""
    path = item.path.relative_to(store.root)
    if owner := store.holder(item.stage_id):
        print(f"kept    {path}: is being made by {owner.told()}")
        return False
    if item.is_stage and (work := unnamed_work(store, chains(store))):
        print(
            f"kept    {path}: {work[0]} may need it, which {work[1].told()} makes for no chain yet"
        )
        return False
    if not is_rehearsal:
        try:
            with lock_if_free(store, item.stage_id):
                # A run may have finished, continued or named it since it was found.
                now = {(found.path, found.why) for found in _found(store, older, item.stage_id)}
                if (item.path, item.why) not in now:
                    print(f"kept    {path}: changed while this looked at the rest")
                    return False
                remove(item)
        except Busy as busy:
            print(f"kept    {path}: {busy}")
            return False
    print(f"remove  {size_text(item.num_bytes):>8}  {path}: {item.why}")
    return True


@contextmanager
def lock_if_free(store: Store, stage_id: str) -> Iterator[None]:
    """The stage's lock.

    Raises:
        Busy: another process holds it.
    """

    def refuse(text: str) -> None:
        raise Busy(text.removesuffix("; waiting for it"))

    with store.lock(stage_id, refuse):
        yield


def size_text(number: float) -> str:
    """Bytes in their largest unit of thousand: 5.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
