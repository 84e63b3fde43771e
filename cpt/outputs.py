"""What a model says to sample rows, and how far another one is from it.

Legend: T positions of a row, H hidden width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Tokens of a sample row: long rows say no more, and their hidden states are kept.
SAMPLE_LENGTH = 128


@dataclass(frozen=True)
class Outputs:
    """What a model says to sample rows: last hidden states [T, H] of each, and what makes logits of them."""

    hidden: "list[Tensor]"
    head: Any

    def kl(self, other: "Outputs") -> float:
        """Mean over tokens of KL(own || other), in nats."""
        import torch

        total, count = 0.0, 0
        with torch.no_grad():
            for own, there in zip(self.hidden, other.hidden, strict=True):
                # In fp64: between near equals the sum is a small difference of large terms.
                mine, theirs = (
                    model.head(hidden).double().log_softmax(-1)
                    for model, hidden in ((self, own), (other, there))
                )
                total += float((mine.exp() * (mine - theirs)).sum())
                count += len(own)
        return total / max(count, 1)


def outputs(model: Any, rows: Sequence[Sequence[int]]) -> Outputs:
    """What a model says to rows of tokens, in evaluation mode; afterwards it is as it was."""
    import torch

    from cpt.hooks.backbone import bare_model
    from cpt.tokens import OutputHead

    plain = bare_model(model)
    training = plain.training
    plain.eval()
    hidden = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row[:SAMPLE_LENGTH]], device=plain.device)
            states = plain.base_model(input_ids=ids, use_cache=False).last_hidden_state
            hidden.append(states[0].cpu())
    plain.train(training)
    return Outputs(hidden, _head(OutputHead(plain)))


def _head(head: Any) -> Any:
    """Logits in fp32, wherever the head lies, of hidden states on the CPU."""

    def logits(hidden: "Tensor") -> "Tensor":
        weight = next(iter(head.parameters()))
        value: Tensor = head(hidden.to(weight)).float().cpu()
        return value

    return logits
