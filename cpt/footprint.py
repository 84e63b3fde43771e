"""What a stage needs of a machine's memory and disk, from its model's size and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from cpt.hooks.base import Hook, points
from cpt.hooks.lora import stays_apart
from cpt.model_size import ModelSize
from cpt.plan import Node
from cpt.store import KEPT_CHECKPOINTS
from cpt.trained import trained

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Resident once torch, transformers, TRL and lm-eval are imported: the smoke chain's model is 0.1 M.
LIBRARIES = 0.6e9
# Tokens and vocabulary of one tile of TRL's fused head (trl/kernels/chunked_logprob.py), and the
# tokens of one of `cpt.tokens.token_kl`.
TILE = (4096, 32768)
KL_CHUNK = 256


@dataclass(frozen=True)
class Workload:
    """What a stage puts through the model.

    Attributes:
        sequences: of one backward pass in one process.
        length: tokens of the longest sequence that settings allow, as far as they say.
        is_whole: false where settings do not say it all: the prompts before completions come on top.
        per_step: sequences of one optimizer step over all processes.
        steps: optimizer steps; None where the data decides.
        half: whether it computes in 16 bits.
        checkpointing: whether activations are computed again in the backward pass.
        optimizer: by TRL's name.
        saves: whether the trainer leaves checkpoints on the way.
        on_cpu: whether the machine has no accelerator to train on.
    """

    sequences: int
    length: int
    is_whole: bool
    per_step: int
    steps: int | None
    half: bool
    checkpointing: bool
    optimizer: str
    saves: bool
    on_cpu: bool

    @property
    def tokens(self) -> int | None:
        """steps * batch * length: every sequence counts as a full one."""
        return None if self.steps is None else self.steps * self.per_step * self.length


@dataclass(frozen=True)
class Footprint:
    """Bytes of a stage.

    Attributes:
        parts: of each process, by what they are for.
        passing: on disk while it trains: the trainer's checkpoints that stay, and the one being written.
        kept: on disk for good.
    """

    parts: Mapping[str, float]
    passing: float
    kept: float

    @property
    def peak(self) -> float:
        """Of each process."""
        return sum(self.parts.values())


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
      Under ZeRO over w processes: b P + 12 P / w (master copy and moments in 32 bits), with ZeRO-2
      (b + 12) P / w.
    - frozen: N b for the reference of a stage that has one, and for each model that a hook holds; none
      where it is what lies below an adapter, or where the hook keeps its outputs on disk.
    - hooks: what they hold for each of the P numbers: 4 with ema, 8 with ewc, and so on.
    - activations of T = sequences * length tokens, with the old rows that penalties bring (lwf, der, a replay
      loss; agem and gem run theirs once the stage's own are gone, as many at a time), H wide with I in the
      feed-forward part: 40 H + 16 I bytes a token and layer in 32 bits, 24 H + 8 I in 16, 34 H + 8 I where
      they are mixed. With checkpointing b H a token and layer, and one layer whole.
    - head: 2 tiles of TRL's fused head and the 32-bit gradient of the head, 4 V H; with each penalty that
      makes logits 5 chunks of 256 tokens, V wide, and one more gradient.

    The activations were counted with `saved_tensors_hooks` on transformers 5.23's Llama with padding; they
    hold for Llama-like decoders with attention that keeps no T x T matrix. Not counted: sampling, and what
    an allocator keeps of freed memory. Measured on a CPU, SmolLM2-135M, 8 sequences of at most 256 tokens
    under a kl hook: 7.2 GB by this formula, 6.2 GB after 2 steps, 9.2 GB after 40 within a chain.
    """
    hooks = [hook for _, hook in node.hooks]
    width, n = BYTES[dtype], size.num_parameters
    own = trained(size, hooks)
    each = 4 if own.is_adapter else width
    is_zero = backend.startswith("zero")
    if is_zero and load.half:
        width = each = 2
    states = _states(load.optimizer, 4 if is_zero else each)
    if states is None:
        return None
    states += 4 if is_zero else 0  # the master copy
    shards = {"ddp": 2.0, "zero2": 1 / world}
    held = own.count * sum(hook.bytes_per_weight() for hook in hooks)
    weights = n * width + each * own.added
    num_gradients = shards.get(backend, 1.0) + any(
        "second_gradient" in h.facts_as_set() for h in hooks
    )
    parts = {
        "weights": weights + (2 * n if load.half and width == 4 else 0),
        "gradients": each * own.count * num_gradients,
        "states": states * own.count / (world if is_zero else 1),
        "frozen": _references(node, parent, hooks, own.is_adapter) * n * BYTES[dtype],
        "hooks": held,
        "activations": _activations(size, _with_old(load, hooks), width),
        "head": _head(size, load, sum(_has_outputs(hook) for hook in hooks)),
        "libraries": LIBRARIES if load.on_cpu else 0.0,
    }
    checkpoint = each * own.count + states * own.count + held
    kept = n * width + each * own.kept
    return Footprint(parts, (KEPT_CHECKPOINTS + 1) * checkpoint if load.saves else 0.0, kept)


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


def _has_outputs(hook: Hook) -> bool:
    """Whether it makes logits of its own."""
    return "logits" in hook.needs_as_set() and "penalty" in points(hook)


def _with_old(load: Workload, hooks: Sequence[Hook]) -> Workload:
    """The workload with the rows that hooks run beside the stage's own in one backward pass."""
    passes = max(load.per_step // load.sequences, 1)
    more = sum(-(-rows // passes) for hook in hooks for rows in hook.rows_per_step())
    return replace(load, sequences=load.sequences + more)


def _references(node: Node, parent: Node, hooks: Sequence[Hook], has_adapter: bool) -> int:
    """Frozen models beside the trained one."""
    keeps = stays_apart([hook for _, hook in parent.hooks])
    below = (
        {"previous", parent.name, parent.id, parent.stands_for}
        if has_adapter and not keeps
        else set()
    )
    own = "reference" in node.parents and not has_adapter
    held = {name for hook in hooks for name in hook.models_held()}
    return own + len({parent.name if name == "previous" else name for name in held - below})


def _activations(size: ModelSize, load: Workload, width: int) -> float:
    tokens, (_, h), wide = load.sequences * load.length, size.embedding, size.intermediate
    by_h, by_wide = {(4, False): (40, 16), (4, True): (34, 8)}.get((width, load.half), (24, 8))
    layer = by_h * h + by_wide * wide
    if load.checkpointing:
        return tokens * (size.num_layers * width * h + layer)
    return float(tokens * size.num_layers * layer)


def _head(size: ModelSize, load: Workload, num_kl: int) -> float:
    rows, h = size.embedding
    number = 2 if load.half else 4
    tile = min(load.sequences * load.length, TILE[0]) * min(rows, TILE[1])
    return 2 * tile * number + 4 * rows * h + num_kl * 4 * (5 * KL_CHUNK * rows + rows * h)
