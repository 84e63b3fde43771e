"""Log-likelihoods of continuations from packed rows, with the LM head only where something is scored."""

import itertools
from collections.abc import Callable, Sequence
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
    batches,
    chains,
    cheapest_rows,
    make_row,
    shared_lengths,
)

#: Positions whose logits exist at one time.
CHUNK = 256
#: A batch takes this many tokens for each row that the suite allows, or the longest sequence's.
LEAST_TOKENS = 64
#: What a model may raise that cannot be called as we call it; some bring code of their own.
CANNOT = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)

#: Inputs, which are all tokens but the last, and the continuation at whose tokens they end.
Pair = tuple[Tokens, Tokens]
Answer = tuple[float, bool]


class Scorer:
    """Scores continuations with a causal model as lm-eval's HFLM does, and computes shared tokens once.

    What a model can is found by trying it on a few tokens beside its own forward pass:

    - `branches`: a 4-D mask and positions of our own give a token the hidden state that it has in a
      sequence alone. Else every sequence has its own row.
    - `is_right`: the backbone and the head give the logits of the model's own forward at all.

    Attributes:
        why: what keeps the model from the faster way, for people; empty if nothing does.
    """

    def __init__(self, model: Any, *, max_length: int, softmax_dtype: Any = None) -> None:
        """Take a causal language model in evaluation mode, and try it."""
        self.softmax_dtype = softmax_dtype
        self.device = model.device
        self.why = ""
        self.is_right = self.branches = False
        try:
            inner = bare_model(model)
            self.backbone, self.head = inner.base_model, OutputHead(inner)
            config = model.config.get_text_config()
            self.attention = 2.0 * config.hidden_size
            self.longest = min([max_length, *_windows(config)])
            self.is_right = self._agrees(model, False)
            self.branches = _takes_masks(config) and self._agrees(model, True)
        except CANNOT as error:
            self.why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if not self.branches:
            what = "one row for each choice" if self.is_right else "lm-eval's own way"
            why = self.why or "a mask of our own changes its numbers"
            self.why = f"{type(model).__name__} is scored in {what} ({why})"

    @torch.no_grad()
    def score(
        self, pairs: Sequence[Pair], *, batch_size: int, step: Callable[[int], None]
    ) -> list[Answer]:
        """(log-likelihood, whether greedy decoding gives it) of each pair's continuation.

        Args:
            pairs: no continuation is empty or longer than its inputs.
            batch_size: rows of a batch; with the longest sequence it bounds a batch's tokens.
            step: told how many pairs are done.
        """
        asking: dict[Tokens, list[int]] = {}
        for number, (inputs, _) in enumerate(pairs):
            asking.setdefault(inputs, []).append(number)
        sequences = sorted(asking)
        budget = batch_size * max(LEAST_TOKENS, *map(len, sequences), 1) if sequences else 1
        rows, members = self._rows(sequences, budget)
        answers: list[Answer] = [(0.0, False)] * len(pairs)
        for batch in batches(rows, budget):
            here = [(place, number) for place, row in enumerate(batch) for number in members[row]]
            paths = [path for row in batch for path in rows[row].paths]
            asked = [
                (request, place, path)
                for (place, number), path in zip(here, paths, strict=True)
                for request in asking[sequences[number]]
            ]
            found = self._score([rows[row] for row in batch], asked, pairs)
            for (request, _, _), answer in zip(asked, found, strict=True):
                answers[request] = answer
            step(len(asked))
        return answers

    def _rows(self, sequences: Sequence[Tokens], budget: int) -> tuple[list[Row], list[range]]:
        shared, lengths = shared_lengths(sequences), [len(sequence) for sequence in sequences]
        members = chains(lengths, shared)
        longest = min(self.longest, budget)
        if self.branches:
            members = cheapest_rows(lengths, shared, longest=longest, attention=self.attention)
        return [make_row(sequences, shared, each) for each in members], members

    def _score(
        self, rows: list[Row], asked: list[tuple[int, int, Any]], pairs: Sequence[Pair]
    ) -> list[Answer]:
        """Of a batch; `asked` has a request, the place of its row and its path in that for each answer."""
        length = max(map(len, rows))
        spans = [len(pairs[request][1]) for request, _, _ in asked]
        nodes = numpy.concatenate(
            [
                place * length + path[-span:]
                for (_, place, path), span in zip(asked, spans, strict=True)
            ]
        )
        labels = numpy.concatenate([pairs[request][1] for request, _, _ in asked])
        places, which = numpy.unique(nodes, return_inverse=True)
        hidden = self._hidden(rows).flatten(0, 1)[torch.from_numpy(places).to(self.device)]
        values, greedy = self._at(hidden, which, labels)
        return [
            (float(value.sum()), bool(is_greedy.all()))
            for value, is_greedy in zip(values.split(spans), greedy.split(spans), strict=True)
        ]

    def _at(self, hidden: Tensor, which: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """log p(labels[n]) at hidden[which[n]], [N], and whether it is the largest, [N]; on the CPU.

        The formula, number types and order are HFLM's, for equal numbers in half precision too.
        """
        values: Tensor | None = None
        greedy = torch.zeros(len(labels), dtype=torch.bool)
        order = numpy.argsort(which, kind="stable")
        ends = numpy.searchsorted(which[order], range(0, len(hidden) + CHUNK, CHUNK))
        for start, (begin, end) in enumerate(itertools.pairwise(ends)):
            chunk = slice(start * CHUNK, (start + 1) * CHUNK)
            logs = torch.log_softmax(self.head(hidden[chunk]), dim=-1, dtype=self.softmax_dtype)
            here = order[begin:end]
            at = torch.from_numpy(which[here] - start * CHUNK).to(self.device)
            label = torch.from_numpy(labels[here]).to(self.device)
            if values is None:
                values = torch.zeros(len(labels), dtype=logs.dtype)
            values[here] = logs[at, label].cpu()
            greedy[here] = (logs.argmax(-1)[at] == label).cpu()
        assert values is not None
        return values, greedy

    def _hidden(self, rows: Sequence[Row]) -> Tensor:
        """Last hidden states [B, T, H] of rows that are all chains, or all to be masked."""
        length = max(map(len, rows))
        tokens = torch.tensor([row.tokens + [0] * (length - len(row)) for row in rows])
        given: dict[str, Any] = {"input_ids": tokens.to(self.device)}
        if not all(row.is_chain for row in rows):
            sees = torch.from_numpy(numpy.stack([row.mask(length) for row in rows]))
            sees = sees[:, None].to(self.device)
            dtype = next(self.backbone.parameters()).dtype
            given["attention_mask"] = torch.zeros(sees.shape, dtype=dtype, device=self.device)
            given["attention_mask"].masked_fill_(~sees, torch.finfo(dtype).min)
            depths = torch.tensor([row.depths + [0] * (length - len(row)) for row in rows])
            given["position_ids"] = depths.to(self.device)
        states: Tensor = self.backbone(**given, use_cache=False).last_hidden_state
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
        hidden = self._hidden(rows)
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


def refuse_unscorable(key: Any, row: tuple[int, ...], continuation: tuple[int, ...]) -> None:
    """As HFLM's assertions.

    Raises:
        ProbeError: a continuation without tokens, or with more than the model's maximum length.
    """
    if not 0 < len(continuation) <= len(row):
        what = f"the choice {key[1][:60]!r}" if key else "a text"
        raise ProbeError(
            f"{what} has {len(continuation)} tokens behind {len(row)} of input; a model can score one "
            f"token or more, and no more than the suite's `max_length`"
        )
