"""Whether a machine has what a stage needs, and the first change of settings with which it would."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cpt.footprint import Footprint
from cpt.hooks.lora import Lora, is_adapter
from cpt.machine_spec import Machine
from cpt.plan import Node
from cpt.workload import Workload

#: (node, load, backend) -> its bytes; None where they are not known.
Needs = Callable[[Node, Workload, str], Footprint | None]


@dataclass(frozen=True)
class Shortfall:
    """What a stage needs more of than there is.

    Attributes:
        where: `GPU`, or `host` for the machine's own memory.
        needs, has: bytes, of all processes of a machine where they share it.
    """

    where: str
    needs: float
    has: float


def shortfall(found: Footprint, machine: Machine, per_machine: int) -> Shortfall | None:
    """What does not fit; the GPU's memory before the host's.

    Args:
        per_machine: processes on each machine.
    """
    host = found.peak if machine.on_cpu else found.host_peak
    wanted = [] if machine.on_cpu else [("GPU", found.peak, machine.gpu_memory_gb * 1e9)]
    wanted.append(("host", host * per_machine, machine.host_memory_gb * 1e9))
    short = (Shortfall(*each) for each in wanted if each[2] and each[1] > each[2])
    return next(short, None)


def remedy(
    node: Node,
    load: Workload,
    backend: str,
    smaller: Callable[[int], Workload | None],
    others: Sequence[str],
    needs: Needs,
    fits: Callable[[Footprint], bool],
) -> str:
    """The first setting with which a stage fits, in the order of what it costs to change; empty if none does.

    Smaller micro-batches change nothing but time, computing activations again costs a third more of it,
    another backend changes no result; an adapter trains something else.

    Args:
        smaller: the workload with so many rows of a micro-batch; None where the batch does not split so.
        others: backends on which the chain's hooks run.
    """
    tried = _tries(node, load, backend, smaller, others)
    for words, changed, smallest, name in tried:
        found = needs(changed, smallest, name)
        if found is not None and fits(found):
            return words
    return ""


def _tries(
    node: Node,
    load: Workload,
    backend: str,
    smaller: Callable[[int], Workload | None],
    others: Sequence[str],
) -> Iterator[tuple[str, Node, Workload, str]]:
    least, said = load, ""
    for rows in (4, 2, 1):
        fewer = smaller(rows)
        if fewer is not None and fewer.sequences < load.sequences:
            least, said = fewer, f"micro_batch: {rows}"
            yield said, node, least, backend
    if not load.checkpointing:
        again = "train.activation_checkpointing: true"
        yield again, node, replace(load, checkpointing=True), backend
        least = replace(least, checkpointing=True)
        said = f"{said} and {again}" if said else again
        yield said, node, least, backend
    for other in others:
        yield f"launch: {other}", node, load, other
    for other in others:
        if said:
            yield f"launch: {other} with {said}", node, least, other
    hooks = [hook for _, hook in node.hooks]
    edits = any({"parameters", "gradients"} & hook.needs_as_set() for hook in hooks)
    if not edits and not any(is_adapter(hook) for hook in hooks):
        adapted = replace(node, hooks=(*node.hooks, ("lora", Lora())))
        yield "a lora hook", adapted, load, backend
        if said:
            yield f"a lora hook with {said}", adapted, least, backend
