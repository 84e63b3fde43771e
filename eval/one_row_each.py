"""lm-eval's own batches, with the LM head only where a continuation needs it."""

import inspect
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM


class OneRowEach(HFLM):
    """HFLM, for models whose rows cannot be packed, or whose forward passes must be those of HFLM."""

    def __init__(self, **settings: Any) -> None:
        """As HFLM."""
        super().__init__(**settings)
        self.needed: dict[tuple[int, ...], int] = {}
        self.takes_logits_to_keep = (
            "logits_to_keep" in inspect.signature(self.model.forward).parameters
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of texts, longest first: HFLM pads each batch to its longest text."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        sums = super().loglikelihood_rolling([requests[i] for i in order], disable_tqdm)
        found = dict(zip(order, sums, strict=True))
        return [found[i] for i in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        """Note for each row how far its continuation begins before its end; see `_model_call`."""
        self.needed = {}
        for _, context, continuation in requests:
            row = (context + continuation)[-(self.max_length + 1) : -1]
            key = _without_padding(row)
            start = len(continuation) - len(row)
            self.needed[key] = max(start, self.needed.get(key, start))
        return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)

    def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
        """Logits [B, K, V] of the last K positions of inps [B, T]: those that continuations need.

        HFLM reads its logits from the right end; the LM head is a fifth of a small model's work.
        """
        known = [self.needed.get(_without_padding(row)) for row in inps.tolist()]
        if not self.takes_logits_to_keep or None in known:
            return super()._model_call(inps, attn_mask, labels)
        keep = inps.shape[1] + max(start for start in known if start is not None)
        with torch.no_grad():
            return self.model(inps, logits_to_keep=keep).logits


def _without_padding(row: list[int]) -> tuple[int, ...]:
    """Tokens up to the last that is not 0, with which HFLM pads."""
    end = len(row)
    while end and row[end - 1] == 0:
        end -= 1
    return tuple(row[:end])
