"""A judge that is a model here: the likelier of "A" and "B" after the question."""

import inspect
from collections.abc import Mapping
from typing import Any

from cpt.errors import ProbeError
from eval.beside.encoding import batches, encode, padded_left
from eval.beside.kept import Kept
from eval.progress import Meter


class LocalJudge:
    """Compares the log-likelihoods of the two letters; an exact tie is neither."""

    def __init__(
        self, model: Any, tokenizer: Any, name: str, meter: Meter, batch_size: int = 8
    ) -> None:
        """Take a model that is loaded."""
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.meter, self.batch_size = meter, batch_size
        takes = inspect.signature(model.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def ask(self, questions: Mapping[str, str], kept: Kept) -> None:
        """One forward pass a question, longest first.

        Raises:
            ProbeError: a question is longer than the model, or its scores are NaN.
        """
        import torch

        start, letters = self._letters()
        names = list(questions)
        rows = [
            encode(self.tokenizer, [{"role": "user", "content": questions[name]}], self.name)
            + start
            for name in names
        ]
        most = getattr(self.model.config, "max_position_embeddings", None)
        longest = max(map(len, rows))
        if most and longest > most:
            raise ProbeError(
                f"judge {self.name}: a question has {longest} tokens, and the model has {most} "
                f"positions; take a judge with a longer context, or lower --max-new-tokens"
            )
        pad = self.tokenizer.pad_token_id
        self.meter.begin(len(names))
        for batch in batches([len(row) for row in rows], self.batch_size):
            ids, mask = padded_left(
                [rows[index] for index in batch], 0 if pad is None else pad, self.model.device
            )
            with torch.no_grad():
                logits = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
                    **self.last_only,
                ).logits[:, -1]  # [B, V]
            scores = logits.float().log_softmax(dim=-1)[:, letters].tolist()
            kept.add(
                self._row(names[index], a, b) for index, (a, b) in zip(batch, scores, strict=True)
            )
            self.meter.step(len(batch))

    def _row(self, name: str, a: float, b: float) -> dict[str, Any]:
        if a != a or b != b:
            raise ProbeError(f"judge {self.name}: its log-likelihoods are NaN")
        choice = "A" if a > b else "B" if b > a else ""
        return {"id": name, "choice": choice, "log_likelihoods": [a, b]}

    def _letters(self) -> tuple[list[int], list[int]]:
        """Tokens that both letters begin with, and the one token of each after them."""
        a, b = (
            list(self.tokenizer(letter, add_special_tokens=False)["input_ids"]) for letter in "AB"
        )
        same = 0
        while same < min(len(a), len(b)) and a[same] == b[same]:
            same += 1
        if len(a) != same + 1 or len(b) != same + 1:
            raise ProbeError(
                f"judge {self.name}: its tokenizer writes A as {len(a)} tokens and B as {len(b)}, so "
                f"that their likelihoods do not compare; take another judge"
            )
        return a[:same], [a[same], b[same]]
