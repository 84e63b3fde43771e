"""What a chain still needs of memory, disk and time; what cannot be known is said to be unknown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cpt.errors import PlanError
from cpt.first_guess import guess
from cpt.fitting import Needs, Shortfall, remedy, shortfall
from cpt.footprint import BYTES, Footprint, footprint, merge_footprint
from cpt.gate_spec import GateSpec
from cpt.machine_spec import HERE, Machine
from cpt.model_size import ModelSize, size_of
from cpt.model_spec import ModelSpec
from cpt.plan import Node, Plan
from cpt.seconds import measured
from cpt.stage_time import making, probing, share_left
from cpt.store import Store
from cpt.workload import Workload


@dataclass(frozen=True)
class Forecast:
    """One stage; None is what is not known.

    Attributes:
        load: what it puts through the model; None for the base model and for merges.
        footprint: the bytes that it needs.
        making: seconds of making it: left, or measured where it is done.
        probing: seconds of its probes, likewise; 0 without probes.
        is_done, is_probed: what of it is there.
        is_guess: whether `making` follows from the machine's peak, not from what was measured.
        short: what it needs more of than the machine has.
        remedy: with which settings it would fit, if with any that were tried.
    """

    load: Workload | None
    footprint: Footprint | None
    making: float | None
    probing: float | None
    is_done: bool
    is_probed: bool
    is_guess: bool = False
    short: Shortfall | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Estimate:
    """A chain's stages by name, and what was known when they were estimated.

    Attributes:
        size: of the model.
        base_bytes: what the base model will take on disk.
        unknown_size: why there is no size.
        has_rate: whether any stage was made here.
        num_processes: that hold a model at the same time on one machine.
        machine: what it was estimated for; None where nothing is compared with a machine.
    """

    stages: Mapping[str, Forecast]
    size: ModelSize | None
    base_bytes: float
    unknown_size: str
    has_rate: bool
    num_processes: int
    machine: Machine | None = None


def estimate(
    plan: Plan,
    store: Store,
    backend: str,
    world: int,
    workload_of: Callable[..., Workload],
    suite_file: str = "",
    machine: Machine | None = None,
    machines: int = 1,
    others: Sequence[str] = (),
) -> Estimate:
    """Memory of each process (`cpt.footprint`), disk, and time of what is to do.

    Seconds of a stage: rate * N * tokens * (share of its steps that is left) / processes; of its probes:
    rate * N; both rates from `cpt.seconds`. Where no stage was made, `cpt.first_guess`. Tokens that a stage
    adds to the vocabulary are not counted.

    Args:
        workload_of: `stages.workload.workload`.
        suite_file: name of the suite's result in a stage's `probes/`; empty without probes.
        machine: what each stage must fit, and whose peak a guess takes; None for neither.
        machines: how many of them the processes are on.
        others: backends on which all of the chain's hooks run.
    """
    spec = plan.recipe.model
    base = store.stage(plan.nodes[0].id) / "checkpoint"
    size = size_of(spec, base)
    by_id = {node.id: node for node in plan.nodes}
    found = measured(store, suite_file, workload_of, by_id.keys())
    # What took how long here says nothing of another machine.
    alike = found if machine is None or machine.name == HERE else []
    per_machine = -(-world // machines)
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
            with_rows = partial(
                workload_of,
                node.kind,
                train,
                world=world,
                checkpoints=plan.recipe.keep.trainer_checkpoints if every else 0,
                on_cpu=machine.on_cpu if machine else None,
            )
            load = with_rows(micro_batch=micro)
            if size:
                parent = by_id[node.parents["parent"]]
                needs = partial(_needs, size, parent, spec.dtype, world)
                bytes_ = needs(node, load, backend)
                gate = GateSpec() if plan.recipe.baseline else plan.recipe.gate
                kept = _num_candidates(gate, load.steps, every)
                if bytes_ and kept:
                    more = kept * float(size.num_parameters * BYTES[spec.dtype])
                    bytes_ = replace(bytes_, passing=bytes_.passing + more)
        short, way = None, ""
        if machine and bytes_ and load and not store.is_done(node.id):
            short = shortfall(bytes_, machine, per_machine)
            if short:
                way = _remedy(node, load, backend, with_rows, others, needs, machine, per_machine)
        own = next((stage for stage in found if stage.id == node.id), None)
        number = size.num_parameters if size else None
        seconds = making(node, store, alike, own, load, number, (backend, world))
        guessed = None
        if seconds is None and machine and load and number:
            guessed = guess(number, BYTES[spec.dtype], node, load, machine, world)
            if guessed is not None:
                guessed *= share_left(store.partial(node.id), load)
        stages[node.name] = Forecast(
            load,
            bytes_,
            seconds if guessed is None else guessed,
            probing(alike, own, number) if suite_file and not node.stands_for else 0.0,
            store.is_done(node.id),
            not suite_file or (store.stage(node.id) / "probes" / suite_file).is_file(),
            guessed is not None,
            short,
            way,
        )
    links = spec.path and not (spec.add_tokens or spec.chat_template)
    base_bytes = 0.0 if links or not size else float(size.num_parameters * BYTES[spec.dtype])
    has_rate = any(stage.work for stage in alike)
    return Estimate(stages, size, base_bytes, _reason(spec, base), has_rate, per_machine, machine)


def _needs(
    size: ModelSize, parent: Node, dtype: str, world: int, node: Node, load: Workload, backend: str
) -> Footprint | None:
    return footprint(size, node, parent, load, dtype, backend, world)


def _remedy(
    node: Node,
    load: Workload,
    backend: str,
    with_rows: Callable[..., Workload],
    others: Sequence[str],
    needs: Needs,
    machine: Machine,
    per_machine: int,
) -> str:
    """Settings with which a stage fits."""

    def smaller(rows: int) -> Workload | None:
        try:
            return with_rows(micro_batch=rows)
        except PlanError:
            return None

    def fits(found: Footprint) -> bool:
        return shortfall(found, machine, per_machine) is None

    further = [other for other in others if other != backend and not machine.on_cpu]
    return remedy(node, load, backend, smaller, further, needs, fits)


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
