"""What a stage needs of a machine's memory and disk, from its model's size and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from cpt.activations import activations, has_outputs, head, sampling, with_old
from cpt.hooks.base import Hook, points
from cpt.hooks.lora import stays_apart
from cpt.model_size import ModelSize
from cpt.plan import Node
from cpt.sharding import buffers, sharding
from cpt.trained import trained
from cpt.workload import Workload

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Resident once torch, transformers, TRL and lm-eval are imported: the smoke chain's model is 0.1 M.
LIBRARIES = 0.6e9


# Of all else that a stage needs on a CPU, what glibc keeps of freed blocks (`cpt.memory` has it so): with it
# the quickstart chain's two largest stages need 1.02 and 0.96 of what they took, without 0.84 and 0.79.
FREED = 0.25


@dataclass(frozen=True)
class Footprint:
    """Bytes of a stage.

    Attributes:
        parts: of each process where it computes, a GPU or the host, by what they are for.
        passing: on disk while it trains: the trainer's checkpoints that stay and the one being written, and
            the weights before a merge.
        kept: on disk for good.
        host: of each process beside its GPU, likewise; empty where it computes on the host.
        whole: of each process behind the last step, where a model that was spread is opened whole.
    """

    parts: Mapping[str, float]
    passing: float
    kept: float
    host: Mapping[str, float] = field(default_factory=dict)
    whole: float = 0.0

    @property
    def peak(self) -> float:
        """Of each process."""
        return max(sum(self.parts.values()), self.whole)

    @property
    def host_peak(self) -> float:
        """Of each process beside its GPU."""
        return sum(self.host.values())


def footprint(
    size: ModelSize, node: Node, parent: Node, load: Workload, dtype: str, backend: str, world: int
) -> Footprint | None:
    """Bytes that a stage needs; None where the optimizer's states are not known.

    peak = weights + trained + frozen + hooks + activations + head, and on a CPU the libraries:

    - weights: N b, b bytes a number. Under an adapter only its A numbers are trained, in 4 bytes each
      (`cpt.trained` counts them, and what freeze leaves to train). 16-bit computing on 32-bit weights keeps
      a copy in 2 bytes.
    - trained, of P = N or A numbers: gradient b P (twice under DDP, whose buckets are a second one; once
      more with an agem or gem hook, for that of old rows) and the optimizer's states, for AdamW 2 b P.
      Under ZeRO these are 12 P in all, with the master copy, for AdamW that computes in 16 bits.
    - frozen: N b for the reference of a stage that has one, its reward model, its teacher, and for each
      model that a hook holds; none where it is what lies below an adapter, or where the hook keeps its
      outputs on disk. A backend that spreads the weights spreads these too.
    - hooks: what they hold for each of the P numbers: 4 with ema, 8 with ewc, and so on.
    - activations of T = sequences * length tokens, with the old rows that penalties bring (lwf, der, a replay
      loss; agem and gem run theirs once the stage's own are gone, as many at a time), H wide with I in the
      feed-forward part: 40 H + 16 I bytes a token and layer in 32 bits, 24 H + 8 I in 16, 34 H + 8 I where
      they are mixed. With checkpointing b H a token and layer, and one layer whole.
    - head: 2 tiles of TRL's fused head and the 32-bit gradient of the head, 4 V H; with each penalty that
      makes logits 5 chunks of 256 tokens, V wide, and one more gradient.
    - sampling: keys and values of the completions that are sampled at once.
    - freed: on a CPU a quarter of all this, of freed memory that the allocator keeps.

    Of what `cpt.sharding` says a backend spreads, each of w processes has 1 / w, and of hooks' states on all
    of these backends. Whole weights are gathered as `buffers` tells. What it offloads lies on the host.
    Beside a GPU the host holds the libraries and the model while it loads, whole in every process. A model
    whose weights are spread is opened whole on every process behind the last step, and must fit so too.

    The activations were counted with `saved_tensors_hooks` on transformers 5.23's Llama with padding; they
    hold for Llama-like decoders with attention that keeps no T x T matrix. Not counted: what a GPU's
    allocator keeps of freed memory. tests/bench/results/estimates.md compares it with what was measured on a
    CPU; spreading and offloading are what the libraries say of themselves, not measured.
    """
    hooks = [hook for _, hook in node.hooks]
    shard, own = sharding(backend), trained(size, hooks)
    width, n = BYTES[dtype], size.num_parameters
    each = 4 if own.is_adapter else width
    if shard.is_zero and load.half:
        width = each = 2
    states = _states(load.optimizer, 4 if shard.is_zero else each)
    if states is None:
        return None
    states += 4 if shard.is_zero else 0  # the master copy

    def share(what: str) -> float:
        return 1 / world if what in shard.spreads else 1.0

    spread = 1 / world if shard.is_sharded else 1.0
    held = own.count * sum(hook.bytes_per_weight() for hook in hooks)
    casts = load.half and width == 4 and not shard.is_sharded  # FSDP casts what it gathers
    seconds = any("second_gradient" in hook.facts_as_set() for hook in hooks) * spread
    loaded = n * width - _saved(size, hooks, width)
    parts = {
        "weights": (loaded + each * own.added + 2 * n * casts) * share("weights"),
        "buffers": buffers(size, shard, width, own.count, load.half) if world > 1 else 0.0,
        "gradients": each
        * own.count
        * ((1 + (shard.base == "ddp")) * share("gradients") + seconds),
        "states": states * own.count * share("states"),
        "frozen": _frozen(node, parent, hooks, own.is_adapter)
        * share("weights")
        * n
        * BYTES[dtype],
        "hooks": held * spread,
        "activations": activations(size, with_old(load, hooks), width),
        "head": head(size, load, sum(has_outputs(hook) for hook in hooks)),
        "sampling": sampling(size, load, width),
        "libraries": LIBRARIES if load.on_cpu else 0.0,
    }
    parts["freed"] = FREED * (sum(parts.values()) - LIBRARIES) if load.on_cpu else 0.0
    checkpoint = each * own.count + states * own.count + held
    if shard.base == "fsdp2":  # writes the weights for itself and for from_pretrained
        checkpoint += each * own.count
    merges = any("merge" in points(hook) for hook in hooks)
    passing = merges * (each * own.count + held)
    if load.checkpoints:
        passing += (load.checkpoints + 1) * checkpoint
    kept = n * width + each * own.kept
    whole = 0.0
    if "weights" in shard.spreads:
        whole = n * BYTES[dtype] + parts["libraries"]
    if load.on_cpu:
        return Footprint(parts, passing, kept, whole=whole)
    moved = {what: parts.pop(what) for what in sorted(shard.on_host)}
    loading = {"libraries": LIBRARIES, "loading": float(n * BYTES[dtype])}
    return Footprint(parts, passing, kept, {**loading, **moved}, whole)


def _saved(size: ModelSize, hooks: Sequence[Hook], width: int) -> float:
    """Bytes that linear layers but the head do not take, since a hook holds them in fewer bits."""
    for held in (hook.quantisation() for hook in hooks):
        if held is not None:
            return sum(prod(shape) for shape in size.linear("all-linear")) * (width - held.bits / 8)
    return 0.0


def merge_footprint(size: ModelSize, num_read: int, dtype: str, tries: bool) -> Footprint:
    """Bytes that a merge needs: in memory the largest tensor alone, in fp32, a few times for each model.

    Args:
        size: of the result.
        num_read: checkpoints that it reads.
        dtype: of the weights on disk.
        tries: whether it writes averages to be measured, one at a time.
    """
    largest = max(map(prod, size.shapes.values()))
    kept = float(size.num_parameters * BYTES[dtype])
    parts = {"tensors": (3.0 * num_read + 4) * 4 * largest, "libraries": LIBRARIES}
    return Footprint(parts, kept if tries else 0.0, kept)


def _states(optimizer: str, each: int) -> float | None:
    """Bytes of the optimizer's states for a trained number; None for what has other than moments."""
    name = optimizer.removeprefix("paged_").removeprefix("stable_").removeprefix("schedule_free_")
    moments = {"adamw": 2, "radam": 2, "lion": 1, "sgd": 0}.get(name.partition("_")[0])
    bits = next((part[:-3] for part in name.split("_") if part.endswith("bit")), None)
    return None if moments is None else moments * (int(bits) / 8 if bits else each)


def _frozen(node: Node, parent: Node, hooks: Sequence[Hook], has_adapter: bool) -> int:
    """Frozen models beside the trained one: the trainer's own and those of hooks."""
    keeps = stays_apart([hook for _, hook in parent.hooks])
    below = (
        {"previous", parent.name, parent.id, parent.stands_for}
        if has_adapter and not keeps
        else set()
    )
    own = int("reference" in node.parents and not has_adapter)
    own += sum(role in node.parents for role in ("reward", "teacher"))
    held = {name for hook in hooks for name in hook.models_held()}
    return own + len({parent.name if name == "previous" else name for name in held - below})
