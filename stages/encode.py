"""Rows -> tokens: text with EOS, chats with a mask on what the assistant says, completions of prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cpt.errors import DataError
from cpt.rehearsal import IGNORED
from cpt.rows import Row, format_of
from stages.base import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RefusedRowError(DataError):
    """The chat template cannot serve this row; others it may. Such rows are counted as bad."""


def encode_rows(
    rows: list[Row],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    assistant_only: bool,
) -> Encoded:
    """Tokenise text, chat and completion rows, each under its own format.

    Text: all tokens are labels, EOS at the end. Chats: the template's text; the labels are the assistant's
    turns with their EOS, or everything if not `assistant_only`. Prompt and completion: likewise, and no token
    of the prompt is a label.

    Returns: rows with `input_ids` and `labels`; those left without any label are dropped and counted.
    """
    done: list[Row] = []
    numbers: list[int] = []
    formats = [format_of(row, ("messages", "completion", "text")) for row in rows]
    texts = [row["text"] for row, form in zip(rows, formats, strict=True) if form == "text"]
    # With BOS where the tokenizer adds one.
    encoded_texts = iter(tokenizer(texts)["input_ids"] if texts else [])
    for number, (row, form) in enumerate(zip(rows, formats, strict=True)):
        if form == "messages":
            input_ids, mask = encode_chat(tokenizer, row["messages"], 0, assistant_only)
        elif form == "completion" and isinstance(row["prompt"], list):
            turns = row["prompt"] + row["completion"]
            input_ids, mask = encode_chat(tokenizer, turns, len(row["prompt"]), assistant_only)
        elif form == "completion":
            input_ids, mask = encode_completion(tokenizer, row["prompt"], row["completion"])
        else:
            input_ids = list(next(encoded_texts))
            if input_ids[-1:] != [tokenizer.eos_token_id]:
                input_ids.append(tokenizer.eos_token_id)
            mask = [1] * len(input_ids)
        if max_length is not None:
            input_ids, mask = input_ids[:max_length], mask[:max_length]
        if not any(mask[1:]):
            continue
        labels = [token if kept else IGNORED for token, kept in zip(input_ids, mask, strict=True)]
        done.append({"input_ids": input_ids, "labels": labels})
        numbers.append(number)
    lengths = [len(row["input_ids"]) for row in done]
    return Encoded(done, lengths, len(rows) - len(done), numbers)


def encode_completion(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of both texts in one piece, with EOS, and a mask on those that the completion has a part in.

    Source: `tokenize_fn` in trl/trainer/sft_trainer.py, whose mask begins where the tokens of the prompt
    alone and those of both differ.
    """
    encoded = tokenizer(prompt + completion, return_offsets_mapping=True)
    input_ids = list(encoded["input_ids"])
    # A BOS spans (0, 0); so does an EOS that the tokenizer adds itself.
    mask = [int(right > len(prompt)) for _, right in encoded["offset_mapping"]]
    if input_ids[-1] == tokenizer.eos_token_id:
        mask[-1] = 1
        return input_ids, mask
    return [*input_ids, tokenizer.eos_token_id], [*mask, 1]


def encode_chat(
    tokenizer: Any, messages: list[dict[str, Any]], first: int = 0, assistant_only: bool = True
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and a mask on the assistant's tokens, EOS included.

    Args:
        first: turn from which on anything is masked; those before are a prompt.
        assistant_only: otherwise all that is written from `first` on counts.

    The mask comes from the text: what the template writes for a turn beyond the prompt before it, up to and
    with the first EOS. So it needs no `{% generation %}` in the template.

    Raises:
        DataError: no template; a turn that does not end with EOS.
        RefusedRowError: the template refuses these turns or rewrites earlier ones.
    """
    text = _written(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    input_ids: list[int] = encoded["input_ids"]
    offsets = encoded["offset_mapping"]
    mask = [0] * len(input_ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant" or turn < first:
            continue
        start = _end_of_prompt(tokenizer, messages, turn, text)
        end = _end_of(tokenizer, messages[: turn + 1], text)
        ended = False
        for position, (left, right) in enumerate(offsets):
            if left >= start and right <= end and not ended:
                mask[position] = 1
                ended = input_ids[position] == tokenizer.eos_token_id
        if not ended:
            raise DataError(
                f"the chat template ends the assistant's turn without the tokenizer's EOS "
                f"{tokenizer.eos_token!r}: a model trained so would never stop; set eos_token or the "
                f"template so that they agree"
            )
    if not assistant_only:
        start = _start_of_turn(tokenizer, messages, first, text)
        mask = [int(right > start) if first else 1 for _, right in offsets]
    return input_ids, mask


def _written(tokenizer: Any, messages: list[dict[str, Any]], prompt: bool = False) -> str:
    """What the template makes of the turns; `prompt`: with the header of the assistant's next one."""
    with applying_template(tokenizer, messages):
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        )


@contextmanager
def applying_template(tokenizer: Any, messages: list[dict[str, Any]]) -> Iterator[None]:
    """Tell what is wrong with the template from what is wrong with these turns.

    Raises:
        DataError: there is no template.
        RefusedRowError: it cannot write these turns.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise DataError(
            "the tokenizer has no chat template, and these rows are chats; name one in the model config "
            "(chat_template: <file>.jinja)"
        )
    try:
        yield
    except (TemplateError, TypeError) as error:  # TypeError: text added to a content that is null
        roles = ", ".join(str(message["role"]) for message in messages)
        raise RefusedRowError(f"the chat template refuses turns of {roles}: {error}") from None


def _start_of_turn(tokenizer: Any, messages: list[dict[str, Any]], turn: int, text: str) -> int:
    """Where in `text` a turn begins: the assistant's behind its header, as it is prompted."""
    if turn == 0:
        return 0
    return _end_of(tokenizer, messages[:turn], text, messages[turn]["role"] == "assistant")


def _end_of_prompt(tokenizer: Any, messages: list[dict[str, Any]], turn: int, text: str) -> int:
    """Where in `text` the assistant's own words of a turn begin."""
    if turn:
        return _end_of(tokenizer, messages[:turn], text, prompt=True)
    # Templates cannot write no turns at all; the header is what a prompt adds to any turn.
    first = _written(tokenizer, messages[:1])
    header = _written(tokenizer, messages[:1], prompt=True)[len(first) :]
    return max(text.find(header), 0) + len(header)


def _end_of(tokenizer: Any, messages: list[dict[str, Any]], text: str, prompt: bool = False) -> int:
    before = _written(tokenizer, messages, prompt)
    if not text.startswith(before):
        raise RefusedRowError(
            "the chat template writes earlier turns differently once later ones follow, so the "
            "assistant's tokens cannot be told apart; use a template that only appends"
        )
    return len(before)
