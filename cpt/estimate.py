"""What a chain still needs of memory, disk and time; what cannot be known is said to be unknown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpt.footprint import BYTES, Footprint, Workload, footprint, merge_footprint
from cpt.gate_spec import GateSpec
from cpt.model_size import ModelSize, size_of
from cpt.model_spec import ModelSpec
from cpt.plan import Node, Plan
from cpt.seconds import Measured, copying_rate, measured, probing_rate, rate
from cpt.store import Store, complete_checkpoints


@dataclass(frozen=True)
class Forecast:
    """One stage; None is what is not known.

    Attributes:
        load: what it puts through the model; None for the base model and for merges.
        footprint: the bytes that it needs.
        making: seconds of making it: left, or measured where it is done.
        probing: seconds of its probes, likewise; 0 without probes.
        is_done, is_probed: what of it is there.
    """

    load: Workload | None
    footprint: Footprint | None
    making: float | None
    probing: float | None
    is_done: bool
    is_probed: bool


@dataclass(frozen=True)
class Estimate:
    """A chain's stages by name, and what was known when they were estimated.

    Attributes:
        size: of the model.
        base_bytes: what the base model will take on disk.
        unknown_size: why there is no size.
        has_rate: whether any stage was made here.
        num_processes: that hold a model at the same time on this machine.
    """

    stages: Mapping[str, Forecast]
    size: ModelSize | None
    base_bytes: float
    unknown_size: str
    has_rate: bool
    num_processes: int


def estimate(
    plan: Plan,
    store: Store,
    backend: str,
    world: int,
    workload_of: Callable[..., Workload],
    suite_file: str = "",
) -> Estimate:
    """Memory of each process (`cpt.footprint`), disk, and time of what is to do.

    Seconds of a stage: rate * N * tokens * (share of its steps that is left) / processes; of its probes:
    rate * N; both rates from `cpt.seconds`. Tokens that a stage adds to the vocabulary are not counted.

    Args:
        workload_of: `stages.workload.workload`.
        suite_file: name of the suite's result in a stage's `probes/`; empty without probes.
    """
    spec = plan.recipe.model
    base = store.stage(plan.nodes[0].id) / "checkpoint"
    size = size_of(spec, base)
    by_id = {node.id: node for node in plan.nodes}
    found = measured(store, suite_file, workload_of, by_id.keys())
    stages = {}
    for node in plan.nodes:
        load = bytes_ = None
        if node.stands_for and size:
            bytes_ = merge_footprint(size, 2, spec.dtype, True)
        elif node.spec is not None and node.spec.merge is not None:
            if size:
                tries = node.inputs["merge"]["steering"] is not None
                bytes_ = merge_footprint(size, len({*node.parents.values()}), spec.dtype, tries)
        elif node.spec is not None:
            every = node.spec.checkpoint_every or plan.recipe.checkpoint_every
            micro, train = node.spec.micro_batch, node.spec.train
            load = workload_of(
                node.kind, train, world=world, micro_batch=micro, saves=every is not None
            )
            if size:
                parent = by_id[node.parents["parent"]]
                bytes_ = footprint(size, node, parent, load, spec.dtype, backend, world)
                gate = GateSpec() if plan.recipe.baseline else plan.recipe.gate
                kept = _num_candidates(gate, load.steps, every)
                if bytes_ and kept:
                    more = kept * float(size.num_parameters * BYTES[spec.dtype])
                    bytes_ = replace(bytes_, passing=bytes_.passing + more)
        own = next((stage for stage in found if stage.id == node.id), None)
        number = size.num_parameters if size else None
        stages[node.name] = Forecast(
            load,
            bytes_,
            _making(node, store, found, own, load, number, (backend, world)),
            _probing(found, own, number) if suite_file and not node.stands_for else 0.0,
            store.is_done(node.id),
            not suite_file or (store.stage(node.id) / "probes" / suite_file).is_file(),
        )
    links = spec.path and not (spec.add_tokens or spec.chat_template)
    base_bytes = 0.0 if links or not size else float(size.num_parameters * BYTES[spec.dtype])
    has_rate = any(stage.work for stage in found)
    return Estimate(stages, size, base_bytes, _reason(spec, base), has_rate, world)


def _reason(spec: ModelSpec, base: Path) -> str:
    """Why the size is not known, where it is not."""
    if spec.is_local or base.is_dir():
        return "unknown, the model's folder has no header or config of a kind that is counted"
    return "unknown until the base model is there"


def _num_candidates(gate: GateSpec, steps: int | None, every: int | None) -> int:
    """Checkpoints that a stage keeps for its verdict, at most."""
    actions = {gate.on_regression, *(own.on_regression for own in gate.probes.values())}
    if "rollback" not in actions or every is None:
        return 0
    return gate.candidates if steps is None else min(gate.candidates, (steps - 1) // every)


def _making(
    node: Node,
    store: Store,
    found: Sequence[Measured],
    own: Measured | None,
    load: Workload | None,
    number: int | None,
    world: tuple[str, int],
) -> float | None:
    if node.spec is not None and node.spec.merge is not None and not store.is_done(node.id):
        speed = copying_rate(found)
        if speed is None or number is None or node.inputs["merge"]["steering"] is not None:
            return None
        return speed * number * (len({*node.parents.values()}) + 1)
    if node.stands_for and not store.is_done(node.id):
        tries = node.inputs.get("attempts", len(node.inputs.get("candidates", ())))
        cost = _probing(found, None, number)
        return 0.0 if not tries else None if cost is None else tries * cost
    if store.is_done(node.id) or load is None:
        return own.seconds if own else 0.0 if load is None else None
    cost = rate(found, node.kind, world, frozenset(key for key, _ in node.hooks))
    if cost is None or number is None or not load.tokens:
        return None
    return cost * number * load.tokens * _share_left(store.partial(node.id), load) / world[1]


def _share_left(partial: Path, load: Workload) -> float:
    if (partial / "trained").is_dir() or (partial / "checkpoint").is_dir():
        return 0.0
    done = max((step for step, _ in complete_checkpoints(partial / "trainer")), default=0)
    return max(0.0, 1 - done / load.steps) if load.steps else 1.0


def _probing(found: Sequence[Measured], own: Measured | None, number: int | None) -> float | None:
    if own and own.probing is not None:
        return own.probing
    cost = probing_rate(found)
    return None if cost is None or number is None else cost * number
