"""Log-likelihoods of continuations from packed rows, with the LM head only where something is scored."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from cpt.chunked import CHUNK
from cpt.errors import ProbeError
from eval.packed import Row, Tokens
from eval.packed_model import PackedModel

#: A batch takes this many tokens for each row that the suite allows, or the longest sequence's.
LEAST_TOKENS = 64

#: Inputs, which are all tokens but the last, and the continuation at whose tokens they end.
Pair = tuple[Tokens, Tokens]
Answer = tuple[float, bool]


class Scorer:
    """Scores continuations as lm-eval's HFLM does: the same formula, number types and order."""

    def __init__(self, model: PackedModel, softmax_dtype: Any = None) -> None:
        """Take a model, and the number type of HFLM's log-softmax (None: that of the logits)."""
        self.model = model
        self.softmax_dtype = softmax_dtype

    @torch.no_grad()
    def score(
        self, pairs: Sequence[Pair], *, batch_size: int, step: Callable[[int], None]
    ) -> list[Answer]:
        """(log-likelihood, whether greedy decoding gives it) of each pair's continuation.

        Args:
            pairs: no continuation is empty or longer than its inputs.
            batch_size: rows of a batch; with the longest sequence it bounds a batch's tokens.
            step: told how many pairs are done.

        Where the accelerator's memory does not do, batches become smaller, down to single rows.

        Raises:
            ProbeError: it does not do for one row.
        """
        asking: dict[Tokens, list[int]] = {}
        for number, (inputs, _) in enumerate(pairs):
            asking.setdefault(inputs, []).append(number)
        budget = batch_size * max(LEAST_TOKENS, max(map(len, asking), default=1))
        answers: dict[int, Answer] = {}
        while asking:
            try:
                self._score_all(asking, budget, pairs, answers, step)
            except torch.OutOfMemoryError:
                longest = max(map(len, asking))
                if budget <= longest:
                    raise ProbeError(
                        f"the accelerator has no memory for one row of {longest} tokens; free it of other "
                        f"processes, give the suite a smaller max_length, or load the model in bfloat16"
                    ) from None
                budget = max(budget // 2, longest)
            if asking:  # out of memory: what is left, in smaller batches
                torch.cuda.empty_cache()
        return [answers[number] for number in range(len(pairs))]

    def _score_all(
        self,
        asking: dict[Tokens, list[int]],
        budget: int,
        pairs: Sequence[Pair],
        answers: dict[int, Answer],
        step: Callable[[int], None],
    ) -> None:
        """Score in batches of at most `budget` tokens, and take from `asking` what is done."""
        sequences = sorted(asking)
        for batch in self.model.batches(sequences, budget):
            asked = [
                (request, place, path)
                for place, (row, numbers) in enumerate(batch)
                for path, number in zip(row.paths, numbers, strict=True)
                for request in asking[sequences[number]]
            ]
            found = self._score([row for row, _ in batch], asked, pairs)
            answers.update(
                (request, answer) for (request, _, _), answer in zip(asked, found, strict=True)
            )
            for _, numbers in batch:
                for number in numbers:
                    del asking[sequences[number]]
            step(len(asked))

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
        hidden = self.model.hidden(rows).flatten(0, 1)[
            torch.from_numpy(places).to(self.model.device)
        ]
        values, greedy = self._at(hidden, which, labels)
        return [
            (float(value.sum()), bool(is_greedy.all()))
            for value, is_greedy in zip(
                torch.split(values, spans), torch.split(greedy, spans), strict=True
            )
        ]

    def _at(self, hidden: Tensor, which: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """log p(labels[n]) at hidden[which[n]], [N], and whether it is the largest, [N]; on the CPU."""
        values: Tensor | None = None
        greedy = torch.zeros(len(labels), dtype=torch.bool)
        order = numpy.argsort(which, kind="stable")
        ends = numpy.searchsorted(which[order], range(0, len(hidden) + CHUNK, CHUNK))
        for start, (begin, end) in enumerate(itertools.pairwise(ends)):
            chunk = slice(start * CHUNK, (start + 1) * CHUNK)
            logs = torch.log_softmax(
                self.model.head(hidden[chunk]), dim=-1, dtype=self.softmax_dtype
            )
            here = order[begin:end]
            at = torch.from_numpy(which[here] - start * CHUNK).to(self.model.device)
            label = torch.from_numpy(labels[here]).to(self.model.device)
            if values is None:
                values = torch.zeros(len(labels), dtype=logs.dtype)
            values[here] = logs[at, label].cpu()
            greedy[here] = (logs.argmax(-1)[at] == label).cpu()
        assert values is not None
        return values, greedy


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
