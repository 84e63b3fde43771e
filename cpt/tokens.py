"""One view of a batch for every trainer, and exact KL in chunks of tokens.

Legend: B sequences, T positions, H hidden size, V vocabulary, N selected positions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


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


class Head(Protocol):
    """[N, H] -> [N, V]: an `OutputHead`, or any module."""

    def __call__(self, hidden: "Tensor") -> "Tensor":
        """The logits."""
        ...

    def parameters(self) -> "Iterator[nn.Parameter]":
        """What of it can be trained."""
        ...


class OutputHead:
    """Last hidden states [N, H] -> the logits [N, V] that the model's own forward gives."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.head = model.get_output_embeddings()
        self.scale = _logit_scale(config)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)

    def parameters(self) -> "Iterator[nn.Parameter]":
        """What of it can be trained."""
        yield from self.head.parameters()

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
    student_head: Head,
    reference_hidden: "Tensor",
    reference_head: "Callable[[Tensor], Tensor]",
    weight: "Tensor",
    direction: Literal["reverse", "forward"],
    chunk: int = 256,
) -> "Tensor":
    """Sum of weight * KL over the selected tokens, exact over the vocabulary.

    reverse: KL(student || reference) = sum_v p_s (log p_s - log p_r), with the gradient
    p_s (log p_s - log p_r - KL) for the student's logits; forward: KL(reference || student), with
    p_s - p_r. Logits exist for `chunk` tokens at a time and are turned into the gradient for the hidden
    states and the head at once, so nothing is computed twice and memory is a few chunk * V whatever the
    batch, plus one gradient of the head where it is trained.

    Args:
        student_hidden: [B, T, H] with graph.
        student_head: maps [N, H] to [N, V].
        reference_hidden: [B, T, H'].
        reference_head: maps [N, H'] to [N, V].
        weight: [B, T]; positions with weight 0 cost nothing.
        direction: which of the two.
        chunk: tokens per chunk.

    Source: Kullback and Leibler 1951; the directions as in `methods.md` A23 and A15. The gradient in the
    forward pass as in Hsu et al. 2024 (Liger), arXiv:2410.10989.
    """
    import torch

    chosen = weight != 0
    learns = torch.is_grad_enabled()
    trained = [parameter for parameter in student_head.parameters() if parameter.requires_grad]
    total: Tensor = _token_kl().apply(
        student_hidden[chosen],  # [N, H]
        student_head,
        reference_hidden[chosen],
        reference_head,
        weight[chosen],
        direction,
        chunk,
        learns,
        *trained,
    )
    return total


@cache
def _token_kl() -> Any:
    import torch

    class TokenKL(torch.autograd.Function):
        """`token_kl`, whose forward pass also makes its gradient."""

        @staticmethod
        def forward(
            ctx: Any,
            student: "Tensor",
            student_head: "Callable[[Tensor], Tensor]",
            reference: "Tensor",
            reference_head: "Callable[[Tensor], Tensor]",
            weight: "Tensor",
            direction: str,
            chunk: int,
            learns: bool,
            *trained: "Tensor",
        ) -> "Tensor":
            total = student.new_zeros((), dtype=torch.float32)
            for_hidden = torch.zeros_like(student)
            for_trained = [torch.zeros_like(parameter) for parameter in trained]
            # Weights are near 1 / tokens of a step: in fp16 the gradient would vanish before it meets its
            # scaler, which multiplies what comes from above.
            largest = weight.float().abs().amax() if len(weight) else weight.new_ones(())
            for start in range(0, student.shape[0], chunk):
                piece = slice(start, start + chunk)
                with torch.set_grad_enabled(learns):
                    hidden = student[piece].detach().requires_grad_()
                    logits = student_head(hidden)  # [n, V]
                log_s = torch.log_softmax(logits.detach().float(), dim=-1)
                log_r = torch.log_softmax(reference_head(reference[piece]).float(), dim=-1)
                kl, gradient = _divergence(log_s, log_r, direction)
                weights = weight[piece].float()
                total += (kl * weights).sum()
                if not learns:
                    continue
                made = torch.autograd.grad(
                    logits,
                    [hidden, *trained],
                    gradient.mul_(weights[:, None] / largest).to(logits.dtype),
                    materialize_grads=True,  # of an adapter that is switched off, say
                )
                for_hidden[piece] = made[0]
                for sum_, part in zip(for_trained, made[1:], strict=True):
                    sum_ += part
            ctx.save_for_backward(largest, for_hidden, *for_trained)
            return total

        @staticmethod
        def backward(ctx: Any, upstream: "Tensor") -> Any:
            largest, for_hidden, *for_trained = ctx.saved_tensors
            upstream = upstream * largest
            return (
                for_hidden * upstream,
                *[None] * 7,
                *[gradient * upstream for gradient in for_trained],
            )

    return TokenKL


def _divergence(log_s: "Tensor", log_r: "Tensor", direction: str) -> "tuple[Tensor, Tensor]":
    """[n, V] log probabilities -> KL [n] and its gradient for the student's logits [n, V]."""
    student = log_s.exp()
    if direction == "forward":
        reference = log_r.exp()
        return (reference * (log_r - log_s)).sum(-1), student - reference
    ratio = log_s - log_r
    kl = (student * ratio).sum(-1)
    return kl, ratio.sub_(kl[:, None]).mul_(student)
