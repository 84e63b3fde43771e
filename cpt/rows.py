"""What a row is: TRL's formats, what each must hold, and why a row cannot be trained on."""

from typing import Any, Literal

Row = dict[str, Any]


RowFormat = Literal["text", "messages", "preference", "prompt"]


#: The only column of a row that could not be read; it says why.
BROKEN = "__broken__"

#: What a row of each format must hold, in TRL's words. `prompt` rows may carry more columns for rewards.
REQUIRED: dict[RowFormat, tuple[str, ...]] = {
    "text": ("text",),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
}


def format_of(row: Row) -> RowFormat | None:
    """Which of TRL's formats a row has, by its columns."""
    order: tuple[RowFormat, ...] = ("preference", "messages", "prompt", "text")
    for name in order:
        if all(column in row for column in REQUIRED[name]):
            return name
    return None


def conversational(row: Row, as_chat: bool) -> Row:
    """Bring pairs of whole conversations into TRL's explicit form, and text prompts into a chat's.

    Pairs as UltraFeedback has them hold the prompt in both conversations and, besides, as text.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if (
        isinstance(chosen, list)
        and isinstance(rejected, list)
        and all(len(conversation) > 1 for conversation in (chosen, rejected))
        and chosen[:-1] == rejected[:-1]
    ):
        row = {**row, "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
    if as_chat and isinstance(row.get("prompt"), str):
        row = {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
        for name in ("chosen", "rejected"):
            if isinstance(row.get(name), str):
                row[name] = [{"role": "assistant", "content": row[name]}]
    return row


def fault(row: Row, kind: RowFormat | None) -> str | None:
    """Why a row cannot be trained on, or None."""
    if BROKEN in row:
        return str(row[BROKEN])
    if kind is None:
        return "no text, messages, prompt, chosen or rejected"
    for column in REQUIRED[kind]:
        value = row.get(column)
        if value is None or value == "" or value == []:
            return f"{column} is missing or empty"
        if isinstance(value, list):
            reason = _message_fault(value)
            if reason:
                return f"{column}: {reason}"
        elif not isinstance(value, str):
            return f"{column} is a {type(value).__name__}, not text"
        if isinstance(value, list) != isinstance(row[REQUIRED[kind][0]], list):
            return f"{REQUIRED[kind][0]} and {column} are not both text or both chats"
    if kind == "messages" and (
        not isinstance(row["messages"], list)
        or all(m["role"] != "assistant" for m in row["messages"])
    ):
        return "messages: no turn of the assistant"
    if kind == "text" and not str(row["text"]).strip():
        return "text is blank"
    return None


def _message_fault(messages: list[Any]) -> str | None:
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return "a turn has no role"
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            return "a turn has no content"
    return None
