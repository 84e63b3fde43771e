"""Rows of earlier stages as batches of their own, beside the stage's: for terms and gradients of old data.

Legend: B sequences, T positions.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cpt.errors import HookError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100

#: Which positions of a row count: those that predict a label, or all whose prediction means something.
Counted = Literal["labels", "all"]


@dataclass(frozen=True)
class Example:
    """One row in tokens; `labels` are the tokens themselves, or -100 where nothing is to be predicted."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_labels(self) -> int:
        """Tokens that are predicted; the first one never is."""
        return sum(label != IGNORED for label in self.labels[1:])

    @property
    def num_predictions(self) -> int:
        """Positions that predict a token, label or not."""
        return len(self.input_ids) - 1

    def num_counted(self, counted: Counted) -> int:
        """Positions that count. The last one of a prompt without its answer does: it begins the answer."""
        if counted == "labels":
            return self.num_labels
        return self.num_predictions if self.num_labels else len(self.input_ids)


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    Attributes:
        forward: input_ids and attention_mask [B, T], as the backbone takes them.
        labels: [B, T], -100 where nothing is to be predicted.
        weight: [B, T]; how much position t, which predicts token t+1, counts.
        examples: of the rows, in order.
        is_idle: it weighs nothing, and is there because every process must run as many forward passes.
    """

    forward: "dict[str, Tensor]"
    labels: "Tensor"
    weight: "Tensor"
    examples: tuple[Example, ...] = ()
    is_idle: bool = False

    def predictions(self) -> "Tensor":
        """[B, T], float: 1 where position t predicts a token that is no padding, label or not."""
        import torch

        attention = self.forward["attention_mask"]
        return torch.nn.functional.pad(attention[:, 1:].float(), (0, 1))


def collate(
    examples: Sequence[Example], device: Any, scale: float = 1.0, counted: Counted = "labels"
) -> Batch:
    """Pad examples into one batch, in which every position that counts weighs `scale`.

    Padding is token 0 behind the attention mask, so that no tokenizer is needed and nothing can depend on it.
    """
    import torch

    width = max(len(example.input_ids) for example in examples)
    input_ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED)
    attention = torch.zeros(len(examples), width, dtype=torch.long)
    every = torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        end = len(example.input_ids)
        input_ids[row, :end] = torch.tensor(example.input_ids)
        labels[row, :end] = torch.tensor(example.labels)
        attention[row, :end] = 1
        every[row, : example.num_counted("all")] = 1
    labelled = torch.nn.functional.pad((labels[:, 1:] != IGNORED).float(), (0, 1))
    weight = (labelled if counted == "labels" else every) * scale
    forward = {"input_ids": input_ids.to(device), "attention_mask": attention.to(device)}
    return Batch(forward, labels.to(device), weight.to(device), tuple(examples), scale == 0)


def drawn(number: int, size: int, step: int, seed: int | str) -> list[int]:
    """Which `size` of `number` rows belong to a step: without replacement per cycle, reshuffled each time.

    A function of its arguments alone, so that a stage which continues needs no state.
    """
    found: list[int] = []
    place = step * size
    while len(found) < size:
        cycle, start = divmod(place, number)
        order = list(range(number))
        random.Random(f"{seed}/rehearsal/{cycle}").shuffle(order)
        taken = order[start : start + size - len(found)]
        found += taken
        place += len(taken)
    return found


class Rehearsal:
    """Old examples, `size` of them for every optimizer step, spread over its micro-batches and ranks.

    The weights of one step sum to 1 over all parts: a term made of them is a mean over the step's old
    positions that count, label tokens unless said, at any accumulation and any number of processes.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        size: int,
        seed: int | str,
        name: str,
        counted: Counted = "labels",
    ) -> None:
        self.examples = [example for example in examples if example.num_counted(counted)]
        if not self.examples and counted == "all":
            raise HookError(f"{name}: no old row has a token; name stages that left rows")
        if not self.examples:
            raise HookError(
                f"{name}: no old row has a token to predict; prompts alone cannot be rehearsed: "
                f"name stages that left answers, or a `source:` of texts or chats"
            )
        self.size, self.seed, self.counted = size, seed, counted
        self._drawn: tuple[int, list[Example]] = (-1, [])

    def step(self, step: int) -> list[Example]:
        """The step's examples, in order."""
        if self._drawn[0] != step:
            numbers = drawn(len(self.examples), self.size, step, self.seed)
            self._drawn = (step, [self.examples[number] for number in numbers])
        return self._drawn[1]

    def batch(
        self, step: int, part: tuple[int, int], device: Any, everywhere: bool = False
    ) -> Batch | None:
        """One part of the step's examples; None where there are fewer of them than parts.

        Args:
            everywhere: give such a part a row of weight 0, as every process must run as many forward passes
                as the others.
        """
        examples = self.step(step)
        own = examples[part[0] :: part[1]]
        if not own:
            return collate(examples[:1], device, 0.0, self.counted) if everywhere else None
        number = sum(example.num_counted(self.counted) for example in examples)
        return collate(own, device, 1 / number, self.counted)


def hidden_states(model: Any, forward: "dict[str, Tensor]") -> "Tensor":
    """Last hidden states [B, T, H] of a bare language model."""
    states: Tensor = model.base_model(**forward, use_cache=False).last_hidden_state
    return states
