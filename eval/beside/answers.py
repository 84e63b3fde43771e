"""Answers of a model to prompts, in batches, each kept as soon as it is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpt.errors import ProbeError
from eval.beside.encoding import batches, encode, padded_left
from eval.beside.kept import Kept
from eval.beside.prompts import Prompt
from eval.progress import Meter

VERSION = 1


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; a temperature of 0 takes the likeliest token."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 8

    def __str__(self) -> str:
        how = f"temperature {self.temperature:g}" if self.temperature else "greedy"
        seed = f", seed {self.seed}" if self.temperature else ""
        return f"{how}, at most {self.max_new_tokens} tokens{seed}"


@dataclass(frozen=True)
class Answers:
    """What one model answered, by prompt id."""

    model: str
    texts: dict[str, str]
    num_cut: int
    has_template: bool

    @property
    def mean_length(self) -> float:
        """Characters of an answer: a judge that likes long answers likes the longer-winded model."""
        return sum(map(len, self.texts.values())) / max(1, len(self.texts))


def is_complete(kept: Kept, prompts: Sequence[Prompt]) -> bool:
    """Whether no model is needed."""
    return all(prompt.id in kept.rows for prompt in prompts)


def read_answers(model: str, kept: Kept, prompts: Sequence[Prompt]) -> Answers:
    """The kept answers to these prompts."""
    rows = [kept.rows[prompt.id] for prompt in prompts]
    return Answers(
        model=model,
        texts={row["id"]: row["answer"] for row in rows},
        num_cut=sum(not row["ended"] for row in rows),
        has_template=all(row["template"] for row in rows),
    )


def answer(
    model: Any,
    tokenizer: Any,
    name: str,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    kept: Kept,
    meter: Meter,
) -> None:
    """Answer the prompts that have no kept answer.

    Batches and their seeds depend on the prompts alone, so that a run that was interrupted ends with
    the answers that it would have had. The checkpoint's own sampling settings (top-k, repetition
    penalty) are set aside: models are compared under the same ones.

    Raises:
        ProbeError: a prompt leaves no room for an answer, or a chat template refuses it.
    """
    import torch

    rows = [encode(tokenizer, prompt.messages, name) for prompt in prompts]
    _check_room(model, name, prompts, rows, sampling)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = _ends(model, tokenizer)
    model.generation_config = _settings(sampling, ends, pad if pad is not None else 0)
    meter.begin(len(prompts))
    for number, batch in enumerate(batches([len(row) for row in rows], sampling.batch_size)):
        if all(prompts[index].id in kept.rows for index in batch):
            meter.step(len(batch))
            continue
        torch.manual_seed(sampling.seed + number)
        ids, mask = padded_left([rows[index] for index in batch], pad or 0, model.device)
        with torch.no_grad():
            found = model.generate(input_ids=ids, attention_mask=mask)[:, ids.shape[1] :].tolist()
        kept.add(
            _row(prompts[index], new, tokenizer, ends)
            for index, new in zip(batch, found, strict=True)
        )
        meter.step(len(batch))


def _row(prompt: Prompt, new: list[int], tokenizer: Any, ends: list[int]) -> dict[str, Any]:
    stop = next((place for place, token in enumerate(new) if token in ends), None)
    own = new if stop is None else new[:stop]
    return {
        "id": prompt.id,
        "answer": tokenizer.decode(own, skip_special_tokens=True).strip(),
        "num_tokens": len(own),
        "ended": stop is not None,
        "template": bool(tokenizer.chat_template),
    }


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the checkpoint's own and the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return [t for t in dict.fromkeys([*own, tokenizer.eos_token_id]) if t is not None]


def _settings(sampling: Sampling, ends: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    more: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        more = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": 0,
            "top_p": 1.0,
        }
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
        **more,
    )


def _check_room(
    model: Any, name: str, prompts: Sequence[Prompt], rows: list[list[int]], sampling: Sampling
) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise ProbeError(f"{name}: prompt {prompt.text[:60]!r} has no token")
        if most and len(row) + sampling.max_new_tokens > most:
            raise ProbeError(
                f"{name}: prompt {prompt.text[:60]!r} has {len(row)} tokens, and with "
                f"{sampling.max_new_tokens} for the answer that is more than the {most} positions "
                f"of the model; shorten it, or lower --max-new-tokens"
            )
