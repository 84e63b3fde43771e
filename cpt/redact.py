"""Secrets taken out of what is kept or shown: logs, notes, tracebacks, commands, manifests, reports.

Two things give a secret away: its value is that of an environment variable whose name says so (HF_TOKEN,
AWS_SECRET_ACCESS_KEY), or it has a form that only credentials have (`hf_...`, `Bearer ...`, `user:word@`).
Files that the code reads back, such as job files, are not touched: `secrets_in` refuses such recipes instead.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

_SECRET_NAME = re.compile(
    r"(^|_)(TOKENS?|API_?KEYS?|KEY|SECRETS?|PASS|[A-Z]*PASSWORD|[A-Z]*PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|"
    r"PAT|SSHPASS)(_|$)"  # PGPASSWORD; PWD is a folder
)
#: Of these the value is a place and the name says so.
_PLACE_NAME = re.compile(r"(_|^)(FILE|PATH|DIR|SOCK|HOME|ENDPOINT|URL)$")
_SHORTEST = 8  # letters; what is shorter is rather `1` or `true`, and stands in every line
_FORMS = (
    r"\bhf_[A-Za-z0-9]{16,}",  # Hugging Face
    r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and others
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",  # GitLab
    r"\bxox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web token
)
_FORM = re.compile("|".join(_FORMS))
_BEARER = re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)
_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:\"']*:[^\s/@\"']+@", re.IGNORECASE)
# `hub_token=x`, `"api_key": "x"`, `--wandb-key x`; not eos_token, which is a word of tokenizers.
_NAMED = re.compile(
    r"(?P<name>\b(?:[\w.-]*[._-])?"
    r"(?:(?:hub|hf|access|auth|api|bot|session|bearer|refresh)[_-]?token|api[_-]?key|wandb[_-]?key|"
    r"secret(?:[_-]?access)?(?:[_-]?key)?|password|passwd|passphrase))"
    r"(?P<between>[\"']?\s*[=:]\s*[\"']?)(?P<value>(?!\[redacted)[^\s\"',;&}\])]{4,})",
    re.IGNORECASE,
)
#: What such a name is given when it holds no secret.
_NO_SECRET = {"none", "null", "true", "false"}
REDACTED = "[redacted]"


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Every spelling of a secret in the environment -> the variable's name; the longest first."""
    found: dict[str, str] = {}
    for name, value in environment.items():
        if not _SECRET_NAME.search(name.upper()) or _PLACE_NAME.search(name.upper()):
            continue
        for text in {value, value.strip(), *value.splitlines()}:
            if len(text) >= _SHORTEST:
                for spelling in (text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(text, "")):
                    found.setdefault(spelling, name)
    return dict(sorted(found.items(), key=lambda entry: -len(entry[0])))


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without secrets; `[redacted:HF_TOKEN]` stands for one that the environment holds.

    Twice is as good as once.
    """
    for value, name in secret_values(environment).items():
        text = text.replace(value, f"[redacted:{name}]")
    text = _FORM.sub(REDACTED, text)
    text = _BEARER.sub(rf"\1{REDACTED}", text)
    text = _USER_INFO.sub(rf"\1{REDACTED}@", text)
    return _NAMED.sub(_without_value, text)


def holds_credential(text: str) -> bool:
    """Whether something in the text has a form that only credentials have, whatever its name."""
    return bool(_FORM.search(text) or _BEARER.search(text) or _USER_INFO.search(text))


def _without_value(found: re.Match[str]) -> str:
    if found["value"].lower() in _NO_SECRET:
        return found[0]
    return f"{found['name']}{found['between']}{REDACTED}"


class RedactingStream:
    """A text stream that takes secrets out of what is written to it, line or not; all else is the stream's.

    What libraries print for themselves goes this way too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write without secrets. Returns: letters that were given."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_tree(tree: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """A JSON tree without secrets; its keys stay."""
    if isinstance(tree, Mapping):
        return {key: _value(str(key), value, environment) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [redact_tree(part, environment) for part in tree]
    return redact(tree, environment) if isinstance(tree, str) else tree


def _value(key: str, value: Any, environment: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return redact_tree(value, environment)
    return REDACTED if _is_named(key, value) else redact(value, environment)


def secrets_in(
    tree: Any, environment: Mapping[str, str] = os.environ, path: str = ""
) -> Iterator[tuple[str, str]]:
    """Where a JSON tree holds a credential, and what it is: `stages.sft.data.0.path`, `a credential`.

    A text that merely speaks of passwords is none: only values of variables, forms of credentials, and
    what stands under a key such as `hub_token`.
    """
    if isinstance(tree, Mapping | list | tuple):
        parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in parts:
            yield from secrets_in(value, environment, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, str):
        known = (name for value, name in secret_values(environment).items() if value in tree)
        if name := next(known, None):
            yield path, f"the value of ${name}"
        elif holds_credential(tree) or _is_named(path, tree):
            yield path, "a credential"


def _is_named(path: str, value: str) -> bool:
    """Whether the last part of a path says that its value is secret."""
    found = _NAMED.fullmatch(f"{path.rpartition('.')[2]}={value}")
    return found is not None and value.lower() not in _NO_SECRET
