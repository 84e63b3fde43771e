"""One view of a batch for every trainer, and exact KL in chunks of tokens.

Legend: B sequences, T positions, H hidden size, V vocabulary, N selected positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Tokens:
    """The tokens of one micro-batch that the stage's loss looks at.

    Attributes:
        weight: [B, T], float; how much position t (which predicts token t+1) counts. Sums to 1 over all
            micro-batches and all ranks of one optimizer step, so `sum(weight * x)` is the step's mean of x
            at any accumulation and any number of processes.
        forward: every argument of the trainer's own forward through the backbone.
        hidden: [B, T, H], the last hidden states of that forward, with their graph.
    """

    weight: "Tensor"
    forward: Mapping[str, Any] = field(default_factory=dict)
    hidden: "Tensor | None" = None


class OutputHead:
    """Last hidden states [N, H] -> the logits [N, V] that the model's own forward gives."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.head = model.get_output_embeddings()
        self.scale = _logit_scale(config)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)

    @property
    def num_tokens(self) -> int:
        """V."""
        return int(self.head.weight.shape[0])

    def __call__(self, hidden: "Tensor") -> "Tensor":
        """The logits."""
        logits: Tensor = self.head(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        return logits


def _logit_scale(config: Any) -> float:
    """Cohere and others multiply their logits, Granite divides them; as TRL reads it (add_fused_lm_head)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling if config.model_type == "hyperclovax" else 1 / scaling)


def token_kl(
    student_hidden: "Tensor",
    student_head: "Callable[[Tensor], Tensor]",
    reference_hidden: "Tensor",
    reference_head: "Callable[[Tensor], Tensor]",
    weight: "Tensor",
    direction: Literal["reverse", "forward"],
    chunk: int = 256,
) -> "Tensor":
    """Sum of weight * KL over the selected tokens, exact over the vocabulary.

    reverse: KL(student || reference) = sum_v p_s (log p_s - log p_r); forward: KL(reference || student).
    Logits exist for `chunk` tokens at a time and are computed again in the backward pass, so memory is
    chunk * V whatever the batch.

    Args:
        student_hidden: [B, T, H] with graph.
        student_head: maps [N, H] to [N, V].
        reference_hidden: [B, T, H'].
        reference_head: maps [N, H'] to [N, V].
        weight: [B, T]; positions with weight 0 cost nothing.
        direction: which of the two.
        chunk: tokens per chunk.

    Source: Kullback and Leibler 1951; the directions as in `methods.md` A23 and A15.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    chosen = weight != 0
    student, reference, weights = (
        student_hidden[chosen],
        reference_hidden[chosen],
        weight[chosen],
    )  # [N, H]

    def part(student_part: "Tensor", reference_part: "Tensor", weight_part: "Tensor") -> "Tensor":
        log_s = torch.log_softmax(student_head(student_part).float(), dim=-1)  # [n, V]
        with torch.no_grad():
            log_r = torch.log_softmax(reference_head(reference_part).float(), dim=-1)
        if direction == "reverse":
            kl = (log_s.exp() * (log_s - log_r)).sum(-1)
        else:
            kl = (log_r.exp() * (log_r - log_s)).sum(-1)
        return (kl * weight_part).sum()

    total = student_hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, student.shape[0], chunk):
        piece = slice(start, start + chunk)
        total = total + checkpoint(
            part, student[piece], reference[piece], weights[piece], use_reentrant=False
        )
    return total
