"""What a model makes of old rows: an embedding of each, or its loss.

Legend: N rows, B of a batch, T positions, H hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cpt.rehearsal import Batch, Example, collate, hidden_states

if TYPE_CHECKING:
    from torch import Tensor

ROWS_OF_A_BATCH = 8
#: Raised by hand when the same arguments would give other numbers; part of the cache's key.
VERSION = 1


def embeddings(model: Any, examples: Sequence[Example]) -> "Tensor":
    """[N, H], float32 on the CPU: the mean last hidden state over a row's tokens, of length 1.

    Source: `methods.md` A37.
    """
    import torch

    found = torch.zeros(len(examples), model.config.get_text_config().hidden_size)
    for places, batch in _batches(model, examples):
        mask = batch.forward["attention_mask"][..., None].float()  # [B, T, 1]
        states = hidden_states(model, batch.forward).float()
        mean = (states * mask).sum(1) / mask.sum(1)
        found[places] = torch.nn.functional.normalize(mean, dim=-1).cpu()
    return found


def losses(model: Any, examples: Sequence[Example]) -> "Tensor":
    """[N], float32 on the CPU: the mean over a row's labels of their negative log-likelihood."""
    import torch

    from cpt.tokens import OutputHead, token_nll

    found = torch.zeros(len(examples))
    head = OutputHead(model)
    for places, batch in _batches(model, examples):
        _, nll = token_nll(hidden_states(model, batch.forward), head, batch.labels, batch.weight)
        found[places] = row_means(nll, batch.weight).cpu()
    return found


def row_means(nll: "Tensor", weight: "Tensor") -> "Tensor":
    """[B]: each row's mean of what `token_nll` gave for its tokens: [N], those of weight [B, T] not 0."""
    chosen = weight != 0
    sums = nll.new_zeros(len(weight)).index_add(0, chosen.nonzero()[:, 0], nll)
    return sums / chosen.sum(1).clamp(min=1)


def _batches(model: Any, examples: Sequence[Example]) -> Iterator[tuple[list[int], Batch]]:
    """Rows of like length together, so that little is padded; without gradients or dropout."""
    import torch

    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda place: -len(examples[place].input_ids))
    with torch.no_grad(), _evaluating(model):
        for start in range(0, len(order), ROWS_OF_A_BATCH):
            places = order[start : start + ROWS_OF_A_BATCH]
            yield places, collate([examples[place] for place in places], device)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
