"""A causal model that takes packed rows, as far as it can; tried beside its own forward pass."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from cpt.errors import ProbeError
from cpt.hooks.backbone import bare_model
from cpt.tokens import OutputHead
from eval.packed import (
    Row,
    Tokens,
    chains,
    cheapest_rows,
    full_batches,
    make_row,
    plain_batches,
    shared_lengths,
)

#: Rows of one forward pass, each with the numbers of the sequences that its paths are.
Batch = list[tuple[Row, list[int]]]

#: What a model may raise that cannot be called as we call it; some bring code of their own.
CANNOT = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
#: Of a row with branches: its mask has the square of that.
MOST_NODES = 4096


class PackedModel:
    """A model's backbone and head, for rows in which several sequences share what they have in common.

    What it can is found by trying it on a few tokens:

    - `is_right`: the backbone and the head give the logits of the model's own forward at all.
    - `branches`: a 4-D mask and positions of our own give a token the hidden state that it has in a
      sequence alone. Else every sequence has its own row.

    Attributes:
        why: what keeps the model from the faster way, for people; empty if nothing does.
        longest: no row with branches has more nodes.
        same_below: up to this length a position is rotated alike in every row; beyond, RoPE of the kinds
            `dynamic` and `longrope` goes by the longest row of the batch, so longer ones are alone in theirs.
            None where that never is.
        attention: the row length at which attention costs as much as everything else: 24 H^2 FLOPs of a
            layer for a token against 4 H L, at two thirds of the speed (measured for H = 576 on a CPU).
    """

    def __init__(self, model: Any, *, max_length: int) -> None:
        """Take a causal language model in evaluation mode, and try it."""
        self.device = model.device
        self.why = ""
        self.is_right = self.branches = False
        self.same_below: int | None = None
        try:
            self.same_below = _same_below(model.config.get_text_config())
            inner = bare_model(model)
            self.backbone, self.head = inner.base_model, OutputHead(inner)
            config = model.config.get_text_config()
            self.attention = 4.0 * config.hidden_size
            positions = getattr(config, "max_position_embeddings", None) or 0
            self.longest = min([max(max_length, positions), MOST_NODES, *_windows(config)])
            self.is_right = self._agrees(model, False)
            self.branches = _takes_masks(config) and self._agrees(model, True)
        except torch.OutOfMemoryError:
            raise ProbeError(
                "the accelerator has no memory for a few tokens beside the model; free it of other "
                "processes, or load the model in bfloat16"
            ) from None
        except CANNOT as error:
            self.why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if not self.branches:
            what = "one row for each choice" if self.is_right else "lm-eval's own way"
            why = self.why or "a mask of our own changes its numbers"
            self.why = f"{type(model).__name__} is scored in {what} ({why})"

    def batches(self, sequences: Sequence[Tokens], budget: int) -> list[Batch]:
        """Rows for sorted sequences in batches of at most `budget` tokens, or of one row."""
        if self.same_below is None or max(map(len, sequences), default=0) <= self.same_below:
            return self._batches(sequences, budget)
        numbers = sorted(range(len(sequences)), key=lambda number: -len(sequences[number]))
        long = [number for number in numbers if len(sequences[number]) > self.same_below]
        short = sorted({*numbers} - {*long})
        alone: list[Batch] = [[(make_row([sequences[n]], [0], range(1)), [n])] for n in long]
        packed = self._batches([sequences[n] for n in short], budget)
        return alone + [
            [(row, [short[n] for n in each]) for row, each in batch] for batch in packed
        ]

    def _batches(self, sequences: Sequence[Tokens], budget: int) -> list[Batch]:
        shared, lengths = shared_lengths(sequences), [len(sequence) for sequence in sequences]
        members = chains(lengths, shared)
        longest = min(self.longest, budget)
        if self.branches:
            members = cheapest_rows(lengths, shared, longest=longest, attention=self.attention)
        rows = [make_row(sequences, shared, each) for each in members]
        sizes = [len(row) for row in rows]
        places = plain_batches(sizes, budget)
        if self.branches:
            places = full_batches(sizes, budget, longest=longest, attention=self.attention)
        found = []
        for batch in places:
            laid = [(rows[first], [*members[first]]) for first, *_ in batch]
            for (row, numbers), (_, *others) in zip(laid, batch, strict=True):
                for other in others:
                    row.append(rows[other])
                    numbers += members[other]
            found.append(laid)
        return found

    def run(self, rows: Sequence[Row], use_cache: bool = False) -> Any:
        """What the backbone returns for rows that are all chains, or all to be masked."""
        length = max(map(len, rows))
        tokens = torch.tensor([row.tokens + [0] * (length - len(row)) for row in rows])
        given: dict[str, Any] = {"input_ids": tokens.to(self.device)}
        if self.same_below is not None and length > self.same_below:
            # `dynamic` keeps the longest length that it has seen until it sees one that needs no scaling.
            self.backbone(input_ids=given["input_ids"][:1, :1], use_cache=False)
        if not all(row.is_chain for row in rows):
            sees = torch.from_numpy(numpy.stack([row.mask(length) for row in rows]))
            sees = sees[:, None].to(self.device)
            dtype = next(self.backbone.parameters()).dtype
            given["attention_mask"] = torch.zeros(sees.shape, dtype=dtype, device=self.device)
            given["attention_mask"].masked_fill_(~sees, torch.finfo(dtype).min)
            depths = torch.tensor([row.depths + [0] * (length - len(row)) for row in rows])
            given["position_ids"] = depths.to(self.device)
        return self.backbone(**given, use_cache=use_cache)

    def hidden(self, rows: Sequence[Row]) -> Tensor:
        """Last hidden states [B, T, H]; see `run`."""
        states: Tensor = self.run(rows).last_hidden_state
        return states

    @torch.no_grad()
    def _agrees(self, model: Any, in_one_row: bool) -> bool:
        """Whether our logits of a few sequences are those of the model's own forward, up to rounding."""
        size = model.config.get_text_config().vocab_size
        drawn = [tuple(7 * k * k % size for k in range(a, b)) for a, b in _TRIED]
        trunk, ends = drawn[0], drawn[1:]
        sequences = sorted({trunk[:cut] + end for cut, end in zip(_CUTS, ends, strict=True)})
        shared = shared_lengths(sequences)
        everything = range(len(sequences))
        cut = [everything] if in_one_row else [range(k, k + 1) for k in everything]
        rows = [make_row(sequences, shared, members) for members in cut]
        hidden = self.hidden(rows)
        own = [
            hidden[place][torch.from_numpy(path).to(self.device)]
            for place, row in enumerate(rows)
            for path in row.paths
        ]
        length = max(map(len, sequences))
        tokens = torch.tensor([[*each, *[0] * (length - len(each))] for each in sequences])
        right = model(tokens.to(self.device)).logits.float()
        right = torch.cat([each[: len(s)] for each, s in zip(right, sequences, strict=True)])
        wrong = self.head(torch.cat(own)).float() - right
        spread = right - right.mean(-1, keepdim=True)
        is_exact = next(self.backbone.parameters()).dtype.itemsize >= 4
        is_exact = is_exact and torch.get_float32_matmul_precision() == "highest"
        tolerance = 1e-4 if is_exact else 0.05
        return bool(wrong.square().mean() <= tolerance**2 * spread.square().mean())


#: Of the tokens that a model is tried on: a trunk and branches, and where the branches leave it.
_TRIED = ((3, 15), (20, 25), (31, 33), (40, 43), (52, 59))
_CUTS = (12, 12, 9, 4)


def _same_below(config: Any) -> int | None:
    """See `PackedModel.same_below`; of transformers/modeling_rope_utils.py, dynamic_rope_update."""
    given = getattr(config, "rope_parameters", None) or {}
    # One dictionary, or one for each type of layer.
    kinds = [given, *(each for each in given.values() if isinstance(each, dict))]
    found = list[int]()
    for each in kinds:
        if each.get("rope_type") == "longrope":
            found.append(each["original_max_position_embeddings"])
        elif "dynamic" in str(
            each.get("rope_type")
        ):  # at its own length it still keeps a longer one
            found.append(config.max_position_embeddings - 1)
    return min(found, default=None)


def _takes_masks(config: Any) -> bool:
    """Whether its attention adds the mask that it is given; flash kernels take lengths instead."""
    return getattr(config, "_attn_implementation", None) in ("sdpa", "eager")


def _windows(config: Any) -> list[int]:
    """Lengths below which attention is to all tokens before: of sliding windows and chunks.

    A mask of our own takes the place of theirs (transformers/masking_utils.py, _preprocess_mask_arguments),
    so rows with branches must be no longer.
    """
    names = ("sliding_window", "window_size", "attention_chunk_size", "attention_window_size")
    found = [getattr(config, name, None) for name in names]
    return [length for length in found if isinstance(length, int) and length > 0]
