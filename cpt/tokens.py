"""One view of a batch for every trainer, and exact terms over the vocabulary.

Legend: B sequences, T positions, H hidden size, V vocabulary, N selected positions.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cpt.chunked import CHUNK, Head, chunked
from cpt.spread import gathered_head

if TYPE_CHECKING:
    from torch import Tensor, nn

Direction = Literal["reverse", "forward", "js"]


@dataclass
class Tokens:
    """The tokens of one micro-batch that the stage's loss looks at.

    Attributes:
        weight: [B, T], float; how much position t (which predicts token t+1) counts. Sums to 1 over all
            micro-batches and all ranks of one optimizer step, so `sum(weight * x)` is the step's mean of x
            at any accumulation and any number of processes.
        forward: every argument of the trainer's own forward through the backbone.
        hidden: [B, T, H], the last hidden states of that forward, with their graph.
        part: which micro-batch of the optimizer step this is, over all ranks, and how many there are; a hook
            with a batch of its own takes its rows `part[0]::part[1]`.
        num_labels: predictions in the loss of the whole optimizer step, over all micro-batches and ranks.
        num_predictions: all predictions of the step, in the loss or not. Neither is counted where the loss
            is a mean over sequences.
    """

    weight: "Tensor"
    forward: Mapping[str, Any] = field(default_factory=dict)
    hidden: "Tensor | None" = None
    part: tuple[int, int] = (0, 1)
    num_labels: float = 0.0
    num_predictions: float = 0.0

    def nothing(self) -> "Tensor":
        """A term of 0 with a graph: every rank logs the same terms, whether or not it has rows for them."""
        assert self.hidden is not None
        return self.hidden[..., :0].float().sum()


class OutputHead:
    """Last hidden states [N, H] -> the logits [N, V] that the model's own forward gives.

    logits = softcap tanh(scale (h W^T + b) / softcap), where the model has a scale, a softcap or b.
    """

    #: The model that holds the weights of a frozen head, where it is spread: see `cpt.spread.spread_like`.
    group: Any = None

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
        logits = self._linear(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        return logits

    def _linear(self, hidden: "Tensor") -> "Tensor":
        from torch import nn

        if self.is_linear:
            # Not as a module: what backends do around its calls, such as letting the weights go, happens once
            # for all chunks (`cpt.chunked`).
            return nn.functional.linear(hidden, self.head.weight, self.head.bias)
        logits: Tensor = self.head(hidden)
        return logits

    @property
    def is_linear(self) -> bool:
        """Whether it is a plain linear layer, or of a class that fully_shard has derived from it."""
        from torch import nn

        return (
            isinstance(self.head, nn.Linear)
            and type(self.head).forward is nn.Linear.forward
            and "forward" not in vars(self.head)
        )

    def gradients(self, hidden: "Tensor", logits: "Tensor", gradient: "Tensor") -> "list[Tensor]":
        """The gradient of a sum over logits, in closed form; only where `is_linear`.

        With z = h W^T + b and g the gradient for the logits, g_z = g scale (1 - (logits / softcap)^2);
        g_z W for h, g_z^T h for W, the sum of g_z over positions for b.

        Args:
            hidden: h, [n, H].
            logits: what they gave, [n, V].
            gradient: g, [n, V]; overwritten.

        Returns: for h, and for each of `parameters` that is trained.
        """
        if self.softcap is not None:
            gradient.mul_(1 - (logits.to(gradient.dtype) / self.softcap).square())
        if self.scale != 1:
            gradient.mul_(self.scale)
        gradient = gradient.to(logits.dtype)
        made = [gradient @ self.head.weight]
        for parameter in self.parameters():
            if parameter.requires_grad:
                is_weight = parameter is self.head.weight
                made.append(gradient.t() @ hidden if is_weight else gradient.sum(0))
        return made


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
    direction: Direction,
    chunk: int = CHUNK,
    temperature: float = 1.0,
    keep: "Callable[[Tensor], Tensor] | None" = None,
) -> "Tensor":
    """Sum of weight * T^2 KL over the selected tokens, exact over the vocabulary.

    With p_s and p_r the softmax of logits / T, and the gradient for the student's logits behind each:
    reverse: KL(student || reference) = sum_v p_s (log p_s - log p_r), T p_s (log p_s - log p_r - KL);
    forward: KL(reference || student), T (p_s - p_r);
    js: the mean of KL(p_s || m) and KL(p_r || m) with m = (p_s + p_r) / 2, T p_s (r - E_s r) with
    r = (log p_s - log m) / 2. T^2 keeps the gradient's size where T is raised.

    Args:
        student_hidden: [B, T, H] with graph.
        student_head: maps [N, H] to [N, V].
        reference_hidden: [B, T, H'].
        reference_head: maps [N, H'] to [N, V].
        weight: [B, T]; positions with weight 0 cost nothing.
        direction: which of the three.
        chunk: tokens per chunk of `cpt.chunked`.
        temperature: T.
        keep: the reference's logits [n, V] -> [n], 0 where a position is left out and 1 elsewhere.

    Source: Kullback and Leibler 1951; Lin 1991 (js); T^2 as in Hinton et al. 2015, arXiv:1503.02531; the
    directions as in `methods.md` A23 and A15.
    """
    import torch

    chosen = weight != 0
    reference = reference_hidden[chosen]

    def score(logits: "Tensor", piece: slice) -> "tuple[Tensor, Tensor]":
        log_s = torch.log_softmax(logits / temperature, dim=-1)
        given = reference_head(reference[piece]).float()
        log_r = torch.log_softmax(given / temperature, dim=-1)
        kl, gradient = divergence(log_s, log_r, direction)
        if temperature != 1:
            kl, gradient = kl * temperature**2, gradient.mul_(temperature)
        if keep is not None:
            kept = keep(given)
            kl, gradient = kl * kept, gradient.mul_(kept[:, None])
        return kl, gradient

    is_spread = getattr(reference_head, "group", None) is not None
    with gathered_head(reference_head) if is_spread else nullcontext():
        return chunked(student_hidden[chosen], student_head, weight[chosen], score, chunk)[0]


def divergence(log_s: "Tensor", log_r: "Tensor", direction: Direction) -> "tuple[Tensor, Tensor]":
    """[n, V] log probabilities -> divergence [n] and its gradient for the student's logits [n, V]."""
    import torch

    student = log_s.exp()
    if direction == "forward":
        reference = log_r.exp()
        return (reference * (log_r - log_s)).sum(-1), student - reference
    if direction == "js":
        log_m = torch.logaddexp(log_s, log_r) - math.log(2)
        ratio = (log_s - log_m) / 2
        own = (student * ratio).sum(-1)
        js = own + (log_r.exp() * (log_r - log_m)).sum(-1) / 2
        return js, ratio.sub_(own[:, None]).mul_(student)
    ratio = log_s - log_r
    kl = (student * ratio).sum(-1)
    return kl, ratio.sub_(kl[:, None]).mul_(student)


def token_nll(
    hidden: "Tensor", head: Head, labels: "Tensor", weight: "Tensor", chunk: int = CHUNK
) -> "tuple[Tensor, Tensor]":
    """Sum of weight * -log p(label) over the selected tokens; gradient p - onehot(label) for the logits.

    Args:
        hidden: [B, T, H] with graph.
        head: maps [N, H] to [N, V].
        labels: [B, T]; position t predicts labels[:, t + 1].
        weight: [B, T]; positions with weight 0 cost nothing, and the last one must have none.
        chunk: tokens per chunk of `cpt.chunked`.

    Returns: the sum, with its graph, and -log p of the selected tokens [N], without one.
    """
    import torch

    chosen = weight != 0
    target = labels.roll(-1, dims=1)[chosen]

    def score(logits: "Tensor", piece: slice) -> "tuple[Tensor, Tensor]":
        logs = torch.log_softmax(logits, dim=-1)
        labelled = target[piece, None]
        gradient = logs.exp()
        gradient.scatter_add_(1, labelled, gradient.new_full(labelled.shape, -1.0))
        return -logs.gather(1, labelled)[:, 0], gradient

    return chunked(hidden[chosen], head, weight[chosen], score, chunk)
