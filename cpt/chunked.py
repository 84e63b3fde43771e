"""Terms over the whole vocabulary, a few hundred tokens at a time, with their gradient at once.

Legend: B sequences, T positions, H hidden size, V vocabulary, N selected positions.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from cpt.spread import fetch, gathered_head

if TYPE_CHECKING:
    from torch import Tensor, nn

CHUNK = 256


class Head(Protocol):
    """[N, H] -> [N, V]: a `cpt.tokens.OutputHead`, or any module.

    One with `is_linear` gives its gradients in closed form. Autograd would find, inside of a step's forward
    pass, what backends that spread weights tie to backward passes, as often as this process has chunks.
    """

    def __call__(self, hidden: "Tensor") -> "Tensor":
        """The logits."""
        ...

    def parameters(self) -> "Iterator[nn.Parameter]":
        """What of it can be trained."""
        ...


#: (logits [n, V] in fp32, which of the N positions) -> values [n] and their gradients [n, V].
Score = Callable[["Tensor", slice], "tuple[Tensor, Tensor]"]


def chunked(
    hidden: "Tensor", head: Head, weight: "Tensor", score: Score, chunk: int = CHUNK
) -> "tuple[Tensor, Tensor]":
    """sum_n weight_n * value_n, where `score` gives value_n and d value_n / d logits_n in closed form.

    Logits exist for `chunk` tokens at a time and are turned into the gradient for the hidden states and the
    head at once, so nothing is computed twice and memory is a few chunk * V whatever the batch, plus one
    gradient of the head where it is trained.

    Args:
        hidden: [N, H] with graph.
        head: maps [n, H] to [n, V].
        weight: [N].
        score: of a chunk.
        chunk: tokens per chunk.

    Returns: the sum, with its graph, and the values [N], without one.

    Source: the gradient in the forward pass as in Hsu et al. 2024 (Liger), arXiv:2410.10989.
    """
    import torch

    learns = torch.is_grad_enabled()
    with gathered_head(head):
        trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
        total, values = _function().apply(hidden, head, weight, score, chunk, learns, *trained)
    return total, values


@cache
def _function() -> Any:
    import torch

    class Chunked(torch.autograd.Function):
        """`chunked`, whose forward pass also makes its gradient."""

        @staticmethod
        def forward(
            ctx: Any,
            given: "Tensor",
            head: "Callable[[Tensor], Tensor]",
            weight: "Tensor",
            score: Score,
            chunk: int,
            learns: bool,
            *trained: "Tensor",
        ) -> "tuple[Tensor, Tensor]":
            values = given.new_zeros(len(given), dtype=torch.float32)
            for_hidden = torch.zeros_like(given)
            for_trained = [torch.zeros_like(parameter) for parameter in trained]
            # Weights are near 1 / tokens of a step: in fp16 the gradient would vanish before it meets its
            # scaler, which multiplies what comes from above.
            largest = weight.float().abs().amax() if len(weight) else weight.new_ones(())
            closed: Any = head if getattr(head, "is_linear", False) else None
            ctx.trained = trained
            for start in range(0, len(given), chunk):
                piece = slice(start, start + chunk)
                with torch.set_grad_enabled(learns and closed is None):
                    hidden = given[piece].detach().requires_grad_(closed is None)
                    logits = head(hidden)  # [n, V]
                values[piece], gradient = score(logits.detach().float(), piece)
                if not learns:
                    continue
                weights = weight[piece].float()
                gradient = gradient.mul_(weights[:, None] / largest)
                if closed is not None:
                    made = closed.gradients(hidden, logits, gradient)
                else:
                    made = torch.autograd.grad(
                        logits,
                        [hidden, *trained],
                        gradient.to(logits.dtype),
                        materialize_grads=True,  # of an adapter that is switched off, say
                    )
                for_hidden[piece] = made[0]
                for sum_, part in zip(for_trained, made[1:], strict=True):
                    sum_ += part
            ctx.save_for_backward(largest, for_hidden, *for_trained)
            ctx.mark_non_differentiable(values)
            return (values * weight.float()).sum(), values

        @staticmethod
        def backward(ctx: Any, upstream: "Tensor", _: "Tensor") -> Any:
            largest, for_hidden, *for_trained = ctx.saved_tensors
            fetch(ctx.trained)  # which take their gradient next
            upstream = upstream * largest
            return (
                for_hidden * upstream,
                *[None] * 5,
                *[gradient * upstream for gradient in for_trained],
            )

    return Chunked
