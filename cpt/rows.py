"""What a row is: TRL's formats, what each must hold, and why a row cannot be trained on."""

from collections.abc import Sequence
from typing import Any, Literal

Row = dict[str, Any]


RowFormat = Literal["text", "messages", "completion", "preference", "prompt"]


#: The only column of a row that could not be read; it says why.
BROKEN = "__broken__"

#: What a row of each format must hold, in TRL's words. `prompt` rows may carry more columns for rewards.
REQUIRED: dict[RowFormat, tuple[str, ...]] = {
    "text": ("text",),
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
}

#: The richest first: columns of one format may hold those of another.
RICHEST: tuple[RowFormat, ...] = ("preference", "messages", "completion", "prompt", "text")


def format_of(row: Row, formats: Sequence[RowFormat] = ()) -> RowFormat | None:
    """Which of TRL's formats a row has, by its columns; one of `formats`, where it has several."""
    own = [name for name in RICHEST if all(column in row for column in REQUIRED[name])]
    return next((name for name in own if name in formats), own[0] if own else None)


def explicit(row: Row, as_chat: bool) -> Row:
    """Bring preferences into TRL's explicit form, and text prompts into a chat's.

    Where there is no prompt, it is what the two answers begin with alike: whole turns of chats, letters of
    texts. Chats as UltraFeedback has them hold it in both answers and, besides, as text.

    Source: `extract_prompt` in trl/data_utils.py, which leaves a space before the answers to them.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if _has_implicit_prompt(row):
        assert chosen is not None
        assert rejected is not None
        most = min(len(chosen), len(rejected)) - 1  # something is left to compare
        same = next((n for n in range(most) if chosen[n] != rejected[n]), most)
        if same and chosen[same - 1] == " ":
            same -= 1
        if same or "prompt" not in row:
            parts = {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}
            row = {**row, **parts}
    if as_chat and isinstance(row.get("prompt"), str):
        row = {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
        for name in ("chosen", "rejected", "completion"):
            if isinstance(row.get(name), str):
                row[name] = [{"role": "assistant", "content": row[name]}]
    return row


def _has_implicit_prompt(row: Row) -> bool:
    """Whether both answers hold the prompt: both texts or both chats, without one, or beginning with it."""
    chosen, rejected, prompt = (row.get(name) for name in ("chosen", "rejected", "prompt"))
    if not chosen or not rejected:
        return False
    if isinstance(chosen, str) and isinstance(rejected, str):
        return "prompt" not in row
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return False
    if isinstance(prompt, list) and prompt:
        # Apart and, once more, in both answers.
        return all(answer[: len(prompt)] == prompt for answer in (chosen, rejected))
    first = chosen[0]
    return not (prompt and isinstance(first, dict) and first.get("role") == "assistant")


def fault(row: Row, kind: RowFormat | None) -> str | None:
    """Why a row cannot be trained on, or None."""
    if BROKEN in row:
        return str(row[BROKEN])
    if kind is None:
        return "no text, messages, prompt, completion, chosen or rejected"
    for column in REQUIRED[kind]:
        value = row.get(column)
        if value is None or value == "" or value == []:
            implicit = kind == "preference" and column == "prompt" and value is not None
            shared = ", and chosen and rejected begin differently" if implicit else ""
            return f"{column} is missing or empty{shared}"
        if isinstance(value, list):
            reason = _message_fault(value)
            if reason:
                return f"{column}: {reason}"
        elif not isinstance(value, str):
            return f"{column} is a {type(value).__name__}, not text"
        if isinstance(value, list) != isinstance(row[REQUIRED[kind][0]], list):
            return f"{REQUIRED[kind][0]} and {column} are not both text or both chats"
    for column in row if kind == "prompt" else REQUIRED[kind]:  # rewards get the other columns too
        if _has_half_a_character(row[column]):
            return f"{column} holds half a character (a lone surrogate)"
    said = row[REQUIRED[kind][-1]]
    if kind == "messages" and not isinstance(said, list):
        return "messages: no turn of the assistant"
    if kind in ("messages", "completion") and not _assistant_speaks(said):
        return f"{REQUIRED[kind][-1]}: no turn of the assistant"
    if kind == "text" and not said.strip():
        return "text is blank"
    return None


def _has_half_a_character(value: Any) -> bool:
    """Whether a text in it is none that UTF-8 can write, as JSON's `"\\ud83d"` gives; tokenizers raise."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(map(_has_half_a_character, (*value, *value.values())))
    return isinstance(value, list | tuple) and any(map(_has_half_a_character, value))


def _assistant_speaks(said: Any) -> bool:
    """In a chat; a text is all its own."""
    return isinstance(said, str) or any(message["role"] == "assistant" for message in said)


def _message_fault(messages: list[Any]) -> str | None:
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return "a turn has no role"
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            return "a turn has no content"
    return None
