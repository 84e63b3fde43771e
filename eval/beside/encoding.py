"""Conversations as token ids, in batches that are padded on the left."""

from typing import Any

from cpt.errors import ProbeError


def encode(tokenizer: Any, messages: Any, model_name: str) -> list[int]:
    """Token ids of a conversation up to where the model answers.

    A tokenizer without a chat template gets a single message as plain text.

    Raises:
        ProbeError: the template refuses the messages, or there is none for several of them.
    """
    import jinja2

    if not tokenizer.chat_template:
        if len(messages) > 1:
            raise ProbeError(
                f"{model_name}: its tokenizer has no chat template, and a prompt has "
                f"{len(messages)} messages; give the model a template, or prompts of one message"
            )
        return list(tokenizer(messages[0]["content"])["input_ids"])
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
    except (jinja2.TemplateError, ValueError) as error:
        raise ProbeError(f"{model_name}: its chat template refuses a prompt: {error}") from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def batches(lengths: list[int], size: int) -> list[list[int]]:
    """Indices by falling length, in batches: little padding, and what does not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + size] for start in range(0, len(order), size)]


def padded_left(rows: list[list[int]], pad: int, device: Any) -> tuple[Any, Any]:
    """Token ids and attention mask, [B, T] each, with the padding before the text."""
    import torch

    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
