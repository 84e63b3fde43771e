"""Generation from prompts that begin alike: what they share is computed once, then each has its cache."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from cpt.errors import ProbeError
from eval.one_row_each import OneRowEach
from eval.packed import Tokens
from eval.packed_model import PackedModel

#: Where prompts and answers are shorter, a batch has more rows than the suite says: as many tokens as this
#: times its rows, and at most four times its rows.
TOKENS, TIMES = 256, 4
#: A cache of our own pays for its own step of decoding if it saves this share of the prompts' tokens.
SAVES = 0.3
#: Settings of `generate` that neither repeat its rows nor bring a cache.
PLAIN = {"attention_mask", "do_sample", "temperature", "top_k", "top_p"}


class SharedPrompts(OneRowEach):
    """Generates as HFLM does: the same prompts in the same order, the same decoding and stop words."""

    packed: PackedModel | None = None

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Text after each prompt, up to a stop sequence.

        Where the accelerator's memory does not do, greedy answers are made anew in smaller batches.

        Raises:
            ProbeError: it does not do for one prompt; or answers are sampled, which depends on the batches.
        """
        rows = self._num_rows(requests)
        while True:
            try:
                with mock.patch.object(self, "batch_size_per_gpu", rows):
                    texts: list[str] = super().generate_until(requests, disable_tqdm)
                return texts
            except torch.OutOfMemoryError:
                if rows == 1 or not _is_greedy(requests):
                    raise ProbeError(
                        f"the accelerator has no memory to answer {rows} prompts at a time; give the suite a "
                        f"smaller batch_size or max_length, or load the model in bfloat16"
                    ) from None
            rows = max(1, rows // 2)
            torch.cuda.empty_cache()

    def _num_rows(self, requests: Sequence[Any]) -> int:
        """Rows of a batch; of sampled answers those of HFLM, as they depend on the batch."""
        rows = int(self.batch_size_per_gpu)
        if self.packed is None or not _is_greedy(requests) or not requests:
            return rows
        longest = max(len(self.tok_encode(request.args[0])) for request in requests)
        longest += max(
            int(each.args[1].get("max_gen_toks", self.max_gen_toks)) for each in requests
        )
        if self.packed.same_below is not None and longest > self.packed.same_below:
            return 1  # positions of a row would depend on the longest beside it
        return max(rows, min(TIMES * rows, rows * TOKENS // longest))

    def _model_generate(
        self, context: Any, max_length: int, stop: list[str], **settings: Any
    ) -> Any:
        """Tokens [B, T] of the prompts, padded on the left, and of their answers."""
        own = self.model.generation_config
        is_plain = settings.keys() <= PLAIN and own.cache_implementation is None
        if self.packed is not None and is_plain and (own.num_beams or 1) == 1:
            with torch.no_grad():
                cache = shared_cache(self.packed, context, settings["attention_mask"])
            settings |= {"past_key_values": cache} if cache is not None else {}
        return super()._model_generate(context, max_length=max_length, stop=stop, **settings)


def _is_greedy(requests: Sequence[Any]) -> bool:
    settings = [request.args[1] for request in requests]
    return not any(each.get("do_sample") or each.get("temperature") for each in settings)


def shared_cache(model: PackedModel, context: Tensor, attention_mask: Tensor) -> Any:
    """Keys and values of all tokens but the last of each prompt, at the places that `generate` expects.

    None where the prompts have too little in common, or the model's cache is of another kind.

    Args:
        model: must take rows with branches.
        context: [B, T], padded on the left.
        attention_mask: [B, T], 0 at padding.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    width = context.shape[1] - 1
    lengths = attention_mask.sum(-1).tolist()
    prompts: list[Tokens] = [
        tuple(row[width + 1 - length : width])
        for row, length in zip(context.tolist(), lengths, strict=True)
    ]
    sequences = sorted(set(prompts))
    if not model.branches or not sequences[0]:
        return None
    # Keys and values exist twice while they are laid out: of one batch at a time.
    batches = model.batches(sequences, max(width, context.numel() // 4))
    if sum(len(row) for batch in batches for row, _ in batch) > (1 - SAVES) * len(prompts) * width:
        return None
    owners: dict[Tokens, list[int]] = {}
    for number, prompt in enumerate(prompts):
        owners.setdefault(prompt, []).append(number)
    found: list[list[Tensor]] = []
    for batch in batches:
        cache = model.run([row for row, _ in batch], use_cache=True).past_key_values
        layers = getattr(cache, "layers", [None])
        if any(type(layer) is not DynamicLayer or layer.keys is None for layer in layers):
            return None  # windows, or layers that share
        if not found:
            found = [
                [x.new_zeros(len(prompts), x.shape[1], width, x.shape[3]) for x in _both(each)]
                for each in layers
            ]
        told = [
            (owner, place, [0] * (width - len(path)) + path.tolist())
            for place, (row, numbers) in enumerate(batch)
            for path, number in zip(row.paths, numbers, strict=True)
            for owner in owners[sequences[number]]
        ]
        to, places, nodes = (
            torch.tensor(each, device=context.device) for each in zip(*told, strict=True)
        )
        for ours, layer in zip(found, layers, strict=True):
            for mine, theirs in zip(ours, _both(layer), strict=True):
                mine[to] = theirs[places[:, None], :, nodes].transpose(1, 2)
    shared = DynamicCache()
    for number in range(len(found)):
        shared.update(*found.pop(0), number)
    return shared


def _both(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values
