"""Seconds of a stage and of its probes: what was measured of it, or what others of its kind took."""

from collections.abc import Sequence
from pathlib import Path

from cpt.plan import Node
from cpt.seconds import Measured, copying_rate, probing_rate, rate
from cpt.store import Store, complete_checkpoints
from cpt.workload import Workload


def making(
    node: Node,
    store: Store,
    found: Sequence[Measured],
    own: Measured | None,
    load: Workload | None,
    number: int | None,
    world: tuple[str, int],
) -> float | None:
    """Seconds of making a stage: left, or measured where it is done; None where nothing like it was made.

    Args:
        own: the stage, where it is finished.
        number: parameters of the model.
        world: the backend and its number of processes.
    """
    if node.spec is not None and node.spec.merge is not None and not store.is_done(node.id):
        speed = copying_rate(found)
        if speed is None or number is None or node.inputs["merge"]["steering"] is not None:
            return None
        return speed * number * (len({*node.parents.values()}) + 1)
    if node.stands_for and not store.is_done(node.id):
        tries = node.inputs.get("attempts", len(node.inputs.get("candidates", ())))
        cost = probing(found, None, number)
        return 0.0 if not tries else None if cost is None else tries * cost
    if store.is_done(node.id) or load is None:
        return own.seconds if own else 0.0 if load is None else None
    cost = rate(found, node.kind, world, frozenset(key for key, _ in node.hooks))
    if cost is None or number is None or not load.tokens:
        return None
    return cost * number * load.tokens * share_left(store.partial(node.id), load) / world[1]


def share_left(partial: Path, load: Workload) -> float:
    """Of a stage's steps, by what an interrupted one has left behind."""
    if (partial / "trained").is_dir() or (partial / "checkpoint").is_dir():
        return 0.0
    done = max((step for step, _ in complete_checkpoints(partial / "trainer")), default=0)
    return max(0.0, 1 - done / load.steps) if load.steps else 1.0


def probing(found: Sequence[Measured], own: Measured | None, number: int | None) -> float | None:
    """Seconds of a stage's probes; None where the suite was not measured here."""
    if own and own.probing is not None:
        return own.probing
    cost = probing_rate(found)
    return None if cost is None or number is None else cost * number
