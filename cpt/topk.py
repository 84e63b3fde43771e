"""What is kept of a reference's distribution, k most likely tokens and the rest as one, and terms with it.

Legend: B sequences, T positions, H hidden size, V vocabulary, N selected positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpt.chunked import CHUNK, Head, chunked
from cpt.tokens import Direction, divergence

if TYPE_CHECKING:
    from torch import Tensor

# The smallest finite fp16: of a token that a model rules out, 0 log 0 stays 0.
LEAST = -65504.0


@dataclass(frozen=True)
class Outcomes:
    """k + 1 outcomes at each position: the k most likely tokens, and all others as one. 6 k + 4 bytes.

    Attributes:
        tokens: [N, k], int32.
        logs: [N, k], fp16, their log probabilities.
        rest: [N], fp32, the log of the remaining probability; of nothing, where k = V.
        kept: [N], fp32, 0 where a position is left out and 1 elsewhere; None where all are kept.
    """

    tokens: "Tensor"
    logs: "Tensor"
    rest: "Tensor"
    kept: "Tensor | None" = None

    def __len__(self) -> int:
        return len(self.rest)

    def part(self, which: slice) -> "Outcomes":
        """Of some positions; nothing is copied."""
        kept = None if self.kept is None else self.kept[which]
        return Outcomes(self.tokens[which], self.logs[which], self.rest[which], kept)

    def to(self, device: Any) -> "Outcomes":
        """The same on a device."""
        kept = None if self.kept is None else self.kept.to(device)
        return Outcomes(self.tokens.to(device), self.logs.to(device), self.rest.to(device), kept)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """One after the other."""
    import torch

    kept = [part.kept for part in parts if part.kept is not None]
    return Outcomes(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.logs for part in parts]),
        torch.cat([part.rest for part in parts]),
        torch.cat(kept) if kept else None,
    )


def most_likely(logits: "Tensor", k: int, temperature: float = 1.0) -> Outcomes:
    """The outcomes of softmax(logits / T); logits [N, V], k <= V.

    The rest is summed, not 1 minus the k probabilities, which would cancel where the reference is sure.
    """
    import torch

    logs = torch.log_softmax(logits.float() / temperature, dim=-1)
    best = logs.topk(k, dim=-1)
    rest = logs.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
    return Outcomes(best.indices.int(), best.values.clamp(LEAST).half(), rest.clamp(LEAST))


def topk_kl(
    hidden: "Tensor",
    head: Head,
    stored: Outcomes,
    weight: "Tensor",
    direction: Direction,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> "Tensor":
    """Sum of weight * T^2 KL over k + 1 outcomes, at most the KL over the vocabulary, and equal for k = V.

    The student's V tokens are lumped like the reference's: q_rest = sum of q over the tokens that were not
    kept. With g_o the gradient for the logits of k + 1 outcomes (`cpt.tokens.divergence`), the gradient for
    token v's logit is g_v if it was kept, and else g_rest q_v / q_rest; forward: q_v - r_v and
    q_v - r_rest q_v / q_rest.

    Args:
        hidden: [B, T, H] with graph.
        head: maps [N, H] to [N, V].
        stored: of the positions whose weight is not 0, in order; made with the same temperature.
        weight: [B, T].
        direction: as `cpt.tokens.token_kl`.
        temperature: T.
        chunk: tokens per chunk of `cpt.chunked`.

    Source: `methods.md` D11; the bound is the data-processing inequality.
    """
    import torch

    chosen = weight != 0
    assert int(chosen.sum()) == len(stored), "stored positions are those that count"

    def score(logits: "Tensor", piece: slice) -> "tuple[Tensor, Tensor]":
        log_q = torch.log_softmax(logits / temperature, dim=-1)
        part = stored.part(piece)
        tokens, log_r = part.tokens.long(), part.logs.float()
        log_kept = log_q.gather(-1, tokens)
        # Normalised again: fp16 has rounded the logs, and a KL of what does not sum to 1 can be below 0.
        if tokens.shape[1] == log_q.shape[1]:
            kl, each = divergence(log_kept, torch.log_softmax(log_r, dim=-1), direction)
            gradient = torch.zeros_like(log_q).scatter(-1, tokens, each)
        else:
            others = log_q.scatter(-1, tokens, -torch.inf)  # [n, V]
            rest = others.logsumexp(-1, keepdim=True)
            log_r = torch.log_softmax(torch.cat([log_r, part.rest[:, None]], -1), dim=-1)
            kl, each = divergence(torch.cat([log_kept, rest], -1), log_r, direction)
            gradient = (others - rest).exp() * each[:, -1:]
            gradient = gradient.scatter(-1, tokens, each[:, :-1])
        kl, gradient = kl * temperature**2, gradient.mul_(temperature)
        if part.kept is not None:
            kl, gradient = kl * part.kept, gradient.mul_(part.kept[:, None])
        return kl, gradient

    return chunked(hidden[chosen], head, weight[chosen], score, chunk)[0]


def topk_mse(
    hidden: "Tensor", head: Head, stored: Outcomes, weight: "Tensor", chunk: int = CHUNK
) -> "Tensor":
    """Sum of weight * |C s - C z|^2, s and z the student's and the reference's k logits, C their centring.

    C z = z - mean(z): a shift of all logits changes no probability and must not count. So the log
    probabilities, which are the logits but for a shift, do as well as the logits. The gradient for the k
    logits is 2 (C s - C z), and 0 for the others.

    Args: as `topk_kl`, of temperature 1.

    Source: Buzzega et al. 2020, arXiv:2004.07211, eq. 4; theirs is not centred, over all logits, and a mean
    over them in their code.
    """
    import torch

    chosen = weight != 0
    assert int(chosen.sum()) == len(stored), "stored positions are those that count"
    assert stored.kept is None, "no position is left out"

    def score(logits: "Tensor", piece: slice) -> "tuple[Tensor, Tensor]":
        part = stored.part(piece)
        tokens, z = part.tokens.long(), part.logs.float()
        s = logits.gather(-1, tokens)
        apart = (s - s.mean(-1, keepdim=True)) - (z - z.mean(-1, keepdim=True))
        gradient = torch.zeros_like(logits).scatter(-1, tokens, 2 * apart)
        return apart.square().sum(-1), gradient

    return chunked(hidden[chosen], head, weight[chosen], score, chunk)[0]
