"""Seconds of a stage on a machine where none was made yet: operations over a share of the peak.

Source: 6 N operations a token, 2 N of them forward (Kaplan et al., arXiv:2001.08361, section 2.1).
"""

from collections.abc import Sequence

from cpt.hooks.base import Hook, points
from cpt.hooks.lora import is_adapter
from cpt.machine_spec import Machine
from cpt.plan import Node
from cpt.workload import Workload

# Of the peak that a stage reaches: on a CPU what the quickstart chain did on two cores, on GPUs what others
# report of models of this size (not measured by us).
SHARE_OF_CPU, SHARE_OF_GPU = 0.4, 0.35


def assumption(machine: Machine) -> str:
    """What a guess rests on, for a plan's reader."""
    share = SHARE_OF_CPU if machine.on_cpu else SHARE_OF_GPU
    each = "" if machine.on_cpu else " of each GPU"
    return (
        f"~ is a guess, since no such stage was made here yet: 6 N operations a token at {share:.0%} of "
        f"{machine.tflops:.3g} TFLOP/s{each}"
    )


def guess(
    num_parameters: int, width: int, node: Node, load: Workload, machine: Machine, world: int
) -> float | None:
    """Seconds of training; None where steps, or the machine's speed, are not known.

    t = c N T / (w s F) + sampling, of T tokens on w processes of F operations a second, of which a stage
    reaches a share s. c is 6 (4 where all that is trained is an adapter), 2 more where activations are
    computed again, 2 for each frozen model beside it, and 6 for the old rows that hooks add, by their share.
    On a CPU all processes share one peak.

    sampling: completions of L tokens, R at once, each token in the longer of b N / B (weights read once) and
    2 N R / (s F).

    Args:
        width: b, bytes of a weight.
    """
    if not machine.tflops or not load.tokens or load.steps is None:
        return None
    hooks = [hook for _, hook in node.hooks]
    share = SHARE_OF_CPU if machine.on_cpu else SHARE_OF_GPU
    speed = share * machine.tflops * 1e12 * (1 if machine.on_cpu else world)
    old = sum(rows for hook in hooks for rows in hook.rows_per_step()) / load.per_step
    own = 4 if any(is_adapter(hook) for hook in hooks) else 6
    passes = (own + 2 * load.checkpointing) * (1 + old) + 2 * _frozen(node, hooks)
    seconds = passes * num_parameters * load.tokens / speed
    if load.sampled and machine.bandwidth_gbs:
        alone = speed / (1 if machine.on_cpu else world)
        at_once = load.sampled * (world if machine.on_cpu else 1)
        each = max(
            width * num_parameters / (machine.bandwidth_gbs * 1e9),
            2 * num_parameters * at_once / alone,
        )
        rounds = load.steps * load.per_step / (load.sampled * world)
        seconds += rounds * load.length * each
    return float(seconds)


def _frozen(node: Node, hooks: Sequence[Hook]) -> int:
    """Forward passes of models that are not trained, for each of a stage's tokens."""
    held = {name for hook in hooks if "penalty" in points(hook) for name in hook.models_held()}
    return ("reference" in node.parents) + len(held)
