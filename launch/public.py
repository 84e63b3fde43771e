"""What of this machine must not leave it: places of files, its name, secrets."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpt.errors import StoreError
from cpt.redact import holds_credential, secret_values

#: `/a/b` where a place begins, and not in the middle of a URL.
_PLACE = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^\s/\"'`|<>:,;)\]]+/)*[^\s/\"'`|<>:,;)\]]+")
#: Texts that are part of a model: any words may be in them.
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")


def public(tree: Any) -> Any:
    """Text, or a JSON tree of texts, with the last part of every place in the place of the whole."""
    if isinstance(tree, dict):
        return {public(key): public(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [public(value) for value in tree]
    return _PLACE.sub(lambda found: Path(found[0]).name, tree) if isinstance(tree, str) else tree


def check_public(folder: Path) -> None:
    """Refuse to let texts out that name a place or a secret of this machine.

    Args:
        folder: whose texts are read: those that people and libraries read, not what a model consists of.

    Raises:
        StoreError: says which file names what; a secret is not repeated.
    """
    for file in sorted(folder.rglob("*")):
        if (
            file.suffix not in (".json", ".md", ".jinja", ".py", ".yaml")
            or file.name in VOCABULARIES
        ):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for what in _found(text):
            raise StoreError(
                f"{file.name}: holds {what}, which must not leave this machine; remove it from the stage's "
                f"settings or model files, and make the stage anew"
            )


def _found(text: str) -> Iterator[str]:
    home, host = str(Path.home()), socket.gethostname()
    if holds_credential(text):
        yield "what looks like a secret"
    for value, name in secret_values(os.environ).items():
        if value in text:
            yield f"the value of the environment's {name}"
    for place in {home, str(Path.cwd())} - {"/"}:
        if re.search(rf"(?<![\w/]){re.escape(place)}(?![\w-])", text):
            yield f"the place {place}"
    if len(host) >= 6 and host != "localhost" and re.search(rf"\b{re.escape(host)}\b", text):
        yield f"the name of this machine, {host},"
