"""Prompts that models answer side by side: JSON Lines with `prompt` or `messages`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cpt.errors import DataError
from cpt.files import read_json
from cpt.ids import short_hash
from cpt.rows import BROKEN

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Prompt:
    """What a model is asked; `id` is a hash of it."""

    id: str
    messages: tuple[dict[str, str], ...]

    @property
    def text(self) -> str:
        """For people and for a judge: one message as it is, several with their roles."""
        if len(self.messages) == 1:
            return self.messages[0]["content"]
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in self.messages)


def read_prompts(file: Path, most: int | None = None) -> tuple[Prompt, ...]:
    """Prompts in the order of the file; one that occurs again counts once.

    A row holds `prompt`, a text or a list of messages, or `messages`; answers at their end are left out.

    Raises:
        DataError: no file, no row, or a row that asks nothing; names its number.
    """
    found: dict[str, Prompt] = {}
    if not file.is_file():
        raise DataError(f"{file}: no such file; it holds one JSON object with a prompt a line")
    for number, row in enumerate(islice(read_json(file), most), start=1):
        prompt = _prompt(row, f"{file}: row {number}")
        found.setdefault(prompt.id, prompt)
    if not found:
        raise DataError(f"{file}: holds no prompt")
    return tuple(found.values())


def _prompt(row: Mapping[str, Any], where: str) -> Prompt:
    if BROKEN in row:
        raise DataError(f"{where}: {row[BROKEN]}")
    asked = row.get("prompt", row.get("messages"))
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    if not isinstance(asked, list):
        keys = ", ".join(map(str, row)) or "nothing"
        raise DataError(f"{where}: has neither `prompt` nor `messages`; it holds {keys}")
    messages = [_message(message, where) for message in asked]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or not messages[-1]["content"].strip():
        raise DataError(f"{where}: asks nothing")
    return Prompt(short_hash(messages, 16), tuple(messages))


def _message(message: Any, where: str) -> dict[str, str]:
    role, content = (message.get("role"), message.get("content")) if _is_map(message) else ("", "")
    if role not in ROLES or not isinstance(content, str):
        told = json.dumps(message, default=str)[:60]
        raise DataError(
            f"{where}: {told} is no message; it has a role ({', '.join(ROLES)}) and a text as content"
        )
    return {"role": str(role), "content": content}


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)
