"""The most likely outcomes of an earlier stage's model for rows, kept on disk: no second model in training.

Legend: E examples, N positions that count, k tokens kept.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from cpt.chunked import CHUNK
from cpt.errors import HookError
from cpt.past import PastStage
from cpt.positions import Sure
from cpt.rehearsal import IGNORED, Counted, Example, collate, hidden_states
from cpt.tokens import OutputHead
from cpt.topk import Outcomes, joined, most_likely
from cpt.world import World

if TYPE_CHECKING:
    from cpt.hooks.context import StageContext, Tensors

#: Examples of one process between two exchanges.
BLOCK = 8


@dataclass(frozen=True)
class Kept:
    """What is kept of an example.

    Attributes:
        k: tokens of a position.
        counted: which positions.
        temperature: of the softmax.
        sure: leaves out positions where the model is not; None: all are kept.
    """

    k: int
    counted: Counted
    temperature: float = 1.0
    sure: Sure | None = None

    @property
    def content(self) -> list[object]:
        """What enters a key."""
        sure = None if self.sure is None else [self.sure.max_entropy, self.sure.min_probability]
        return [self.k, self.counted, self.temperature, sure]


def content(example: Example) -> bytes:
    """Sha256 of an example's tokens, and of which are labels."""
    labelled = bytes(label != IGNORED for label in example.labels)
    return hashlib.sha256(array("q", example.input_ids).tobytes() + labelled).digest()


@dataclass
class LogitCache:
    """Outcomes by the content of their example, whatever its place in the data.

    Attributes:
        tensors: as `measured` makes them: tokens, logs, rest and perhaps kept [N, ...]; starts [E + 1], the
            first position of each example; contents [E, 32], its hash.
        name: of the hook, for errors.
    """

    tensors: "Tensors"
    name: str
    numbers: dict[bytes, int] = field(init=False, repr=False)
    starts: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = self.tensors["contents"].numpy()
        self.numbers = {row.tobytes(): number for number, row in enumerate(rows)}
        self.starts = self.tensors["starts"].tolist()

    def of(self, example: Example) -> Outcomes:
        """The outcomes at the positions of an example that count.

        Raises:
            HookError: the cache has no example of these tokens.
        """
        number = self.numbers.get(content(example))
        if number is None:
            raise HookError(
                f"{self.name}: the logit cache was made of other tokens than this row's; remove its "
                f"folder (cache/measured in the store) and run again"
            )
        where = slice(self.starts[number], self.starts[number + 1])
        return _outcomes(self.tensors).part(where)

    def outcomes(self, examples: Sequence[Example], device: Any) -> Outcomes:
        """Those of several examples, in order."""
        return joined([self.of(example) for example in examples]).to(device)


def logit_cache(
    stage: PastStage,
    examples: Sequence[Example],
    kept: Kept,
    model: Any,
    name: str,
    ctx: "StageContext",
) -> LogitCache:
    """The outcomes of an earlier stage's model for these examples, made where they were never made before.

    Args:
        stage: whose model is asked.
        examples: each with a position that counts.
        kept: how much is kept of them.
        model: of this stage, whose vocabulary the earlier stage must have.
        name: of the hook.
        ctx: of the stage.

    Raises:
        HookError: another vocabulary, more outcomes than it has tokens, or a file of other rows.
    """
    assert ctx.load is not None
    assert ctx.cached is not None
    load, size = ctx.load, _vocabulary(model)
    if kept.k > size:
        raise HookError(f"{name}: {kept.k} logits of a token are more than the vocabulary's {size}")

    def make() -> "Tensors":
        earlier = load(stage)
        if _vocabulary(earlier) != size:
            raise HookError(
                f"{name}: {stage.name} has {_vocabulary(earlier)} embeddings and this stage {size}; add "
                f"the tokens in the chain's model config, so that every stage has them"
            )
        return measured(earlier, examples, kept, ctx.world)

    rows = hashlib.sha256(b"".join(map(content, examples))).hexdigest()
    key = ["logits", 1, stage.identity, str(model.dtype), size, kept.content, rows]
    cache = LogitCache(ctx.cached(key, make), name)
    for example in examples:
        cache.of(example)
    return cache


def measured(model: Any, examples: Sequence[Example], kept: Kept, world: World) -> "Tensors":
    """Run a model over examples, each process over its share, and keep the outcomes of all in each.

    One example at a time, without padding: what is kept then depends on neither batches nor processes.
    """
    import torch

    starts = [0, *accumulate(example.num_counted(kept.counted) for example in examples)]
    model.requires_grad_(False).eval()
    made = _tensors(_empty(starts[-1], kept, "cpu"))
    for first in range(0, len(examples), BLOCK * world.size):
        last = min(first + BLOCK * world.size, len(examples))
        begin, end = starts[first], starts[last]
        block = _tensors(_empty(end - begin, kept, world.device))
        for number in range(first + world.rank, last, world.size):
            where = slice(starts[number] - begin, starts[number + 1] - begin)
            for name, value in _tensors(_of_one(model, examples[number], kept, world)).items():
                block[name][where] = value
        for name in sorted(block):
            made[name][begin:end] = world.sum_(block[name]).cpu()
    hashes = b"".join(map(content, examples))
    made["contents"] = torch.frombuffer(bytearray(hashes), dtype=torch.uint8).view(-1, 32)
    made["starts"] = torch.tensor(starts)
    return made


def _of_one(model: Any, example: Example, kept: Kept, world: World) -> Outcomes:
    """The outcomes of one example."""
    import torch

    batch = collate([example], world.device, counted=kept.counted)
    head = OutputHead(model)
    parts = []
    with torch.no_grad():
        hidden = hidden_states(model, batch.forward)[batch.weight != 0]
        for piece in torch.split(hidden, CHUNK):
            logits = head(piece).float()
            found = most_likely(logits, kept.k, kept.temperature)
            sure = None if kept.sure is None else kept.sure(logits).float()
            parts.append(Outcomes(found.tokens, found.logs, found.rest, sure))
    return joined(parts)


def _empty(number: int, kept: Kept, device: Any) -> Outcomes:
    import torch

    return Outcomes(
        torch.zeros(number, kept.k, dtype=torch.int32, device=device),
        torch.zeros(number, kept.k, dtype=torch.float16, device=device),
        torch.zeros(number, device=device),
        None if kept.sure is None else torch.zeros(number, device=device),
    )


def _tensors(outcomes: Outcomes) -> "Tensors":
    found = {"tokens": outcomes.tokens, "logs": outcomes.logs, "rest": outcomes.rest}
    return found if outcomes.kept is None else {**found, "kept": outcomes.kept}


def _outcomes(tensors: "Tensors") -> Outcomes:
    return Outcomes(tensors["tokens"], tensors["logs"], tensors["rest"], tensors.get("kept"))


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
