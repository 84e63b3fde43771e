"""Which positions of a batch a term of the outputs looks at, and how much each counts.

Legend: B sequences, T positions, V vocabulary, n positions of a chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from cpt.tokens import Tokens

#: The label tokens; what is before and between them; both.
Positions = Literal["labels", "prompt", "all"]


def predictions(batch: Mapping[str, Any]) -> "Tensor":
    """[B, T], float: 1 where position t predicts a token of its own sequence, in the loss or not.

    Args:
        batch: input_ids [B, T] with attention_mask, or with position_ids where sequences share a row.
    """
    import torch

    follows = torch.ones_like(batch["input_ids"], dtype=torch.float32)
    if batch.get("attention_mask") is not None:
        follows = follows * batch["attention_mask"]
    if batch.get("position_ids") is not None:
        follows = follows * (batch["position_ids"] != 0)  # the first token of a sequence
    return torch.nn.functional.pad(follows[:, 1:], (0, 1))


def weight_at(tokens: "Tokens", positions: Positions) -> "Tensor":
    """[B, T] weights of the positions, which sum to 1 over the optimizer step, where its loss is a mean over
    tokens."""
    if positions == "labels":
        return tokens.weight
    wanted, number = predictions(tokens.forward), tokens.num_predictions
    if positions == "prompt":
        wanted, number = wanted * (tokens.weight == 0), number - tokens.num_labels
    return wanted / max(number, 1.0)


@dataclass(frozen=True)
class Sure:
    """Where a model is sure enough to be followed; everywhere, where both are None.

    Attributes:
        max_entropy: of its distribution, in nats.
        min_probability: of its most likely token.
    """

    max_entropy: float | None = None
    min_probability: float | None = None

    def __call__(self, logits: "Tensor") -> "Tensor":
        """[n, V] -> [n], 1 where it is sure and 0 elsewhere."""
        logs = logits.log_softmax(-1)
        sure = logs.new_ones(len(logs))
        if self.max_entropy is not None:
            entropy = -(logs.exp() * logs.clamp(min=-1e4)).sum(-1)  # 0 log 0 is 0
            sure = sure * (entropy <= self.max_entropy)
        if self.min_probability is not None:
            sure = sure * (logs.amax(-1).exp() >= self.min_probability)
        return sure
