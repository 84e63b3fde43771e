"""The gradient of the loss on old rows at the present weights: which rows, and how it is taken."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from cpt.data_spec import DataSpec
from cpt.errors import HookError
from cpt.generators import untouched_generators
from cpt.hooks.backbone import bare_model
from cpt.hooks.context import StageContext
from cpt.old_rows import encoded, rows_of_source, rows_of_stages
from cpt.past import NUM_EXEMPLARS, Past
from cpt.rehearsal import Batch, Example, Rehearsal, hidden_states

if TYPE_CHECKING:
    from torch import Tensor

    from cpt.params import View

#: Numbers that are multiplied and summed at a time: no third copy of a whole matrix.
PIECE = 2**22


def old_examples(
    name: str, past: Past, of: str | list[str] | None, source: DataSpec | None, ctx: StageContext
) -> dict[str, list[Example]]:
    """Old rows that have a token to predict: of each chosen stage that has any, or of a data set.

    Args:
        name: the hook's, for errors.
        past: the stages before.
        of: the chosen stages.
        source: a data set instead; a uniform sample of as many rows as a stage leaves exemplars, or its
            first ones where it is streamed.
        ctx: of the stage.

    Raises:
        HookError: no row, or no answer in any row, of a stage that was named or of all.
    """
    if source is not None:
        rows = {source.label: rows_of_source(source, NUM_EXEMPLARS, name, ctx)}
    else:
        left = rows_of_stages(past, of or "all", None, name, ctx)
        rows = {stage.name: own for stage, own in left}
    found = {label: encoded(own, f"{name} of {label}", ctx)[1] for label, own in rows.items()}
    empty = [label for label, examples in found.items() if not examples]
    if len(empty) == len(found) or (empty and of != "all"):
        raise HookError(
            f"{name} of {', '.join(empty)}: no row there has a token to predict (prompts have no answers); "
            f"name stages that left answers, or a `source:` of texts or chats"
        )
    for label in empty:
        ctx.say(f"{name}: {label} left no row with an answer, and constrains nothing")
    return {stage: examples for stage, examples in found.items() if examples}


def old_gradient(view: "View", rehearsal: Rehearsal, ctx: StageContext) -> "list[Tensor]":
    """d/dw of the mean of -log p(label) over all label tokens of this step's old rows.

    As many rows at a time as the stage has in a micro-batch, each process its part, in the trainer's own
    precision and mode (dropout, activation checkpointing). The model is the bare one, which DDP does not
    see, and nothing is left in `.grad`. Afterwards random generators stand where they stood.

    Returns: a tensor in at least fp32 per trainable parameter, in the order of `View.shards`, summed over
        micro-batches and processes.
    """
    import torch

    from cpt.tokens import OutputHead, token_nll

    model, world = bare_model(view.model), ctx.world
    head = OutputHead(model)
    num_parts = math.ceil(rehearsal.size / (world.size * ctx.micro_batch))

    def loss(batch: Batch) -> "Tensor":
        with ctx.autocast():
            hidden = hidden_states(model, batch.forward)
            return token_nll(hidden, head, batch.labels, batch.weight)[0]

    def losses() -> "Iterator[Callable[[], Tensor]]":
        for part in range(num_parts):
            place = (world.rank * num_parts + part, world.size * num_parts)
            batch = rehearsal.batch(ctx.step, place, world.device, world.spreads)
            if batch is not None:
                yield partial(loss, batch)

    with untouched_generators(), torch.enable_grad():
        return view.second_gradient(losses())


def inner(one: "Tensor | None", other: "Tensor | None") -> "Tensor | float":
    """<one, other> of what this process holds; None is 0. In fp64, where products of fp32 are exact."""
    import torch

    if one is None or other is None:
        return 0.0
    total = torch.zeros((), dtype=torch.float64, device=one.device)
    pieces = (torch.split(tensor.reshape(-1), PIECE) for tensor in (one, other))
    for a, b in zip(*pieces, strict=True):
        total += (a.double() * b.double()).sum()
    return total
