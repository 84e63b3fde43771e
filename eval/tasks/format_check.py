"""Does a reply keep to the form that was asked for? Used by `format.yaml`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one reply: `acc` is 1 when it keeps to the form."""
    return {"acc": float(follows(doc["kind"], doc["answer"], results[0]))}


def follows(kind: str, answer: str, reply: str) -> bool:
    """True when `reply`, cut off where generation stopped, has the form that was asked for.

    Args:
        kind: copy (exactly `answer`, quotation marks allowed), beginning (its first words are
            `answer`), greeting (a hello with the name `answer`), yes or no (its first word is one
            of them), numbered (starts with 1.), one word.
        answer: see kind; "" where the form says all.
        reply: what the model wrote.
    """
    reply = reply.strip()
    match kind:
        case "copy":
            return reply.strip('"') == answer
        case "beginning":
            return re.match(rf'"?{re.escape(answer)}\b', reply) is not None
        case "greeting":
            return re.match(rf"(?:hello|hi)\b.*\b{re.escape(answer)}\b", reply, re.I) is not None
        case "yes or no":
            return re.match(r"(?:yes|no)\b", reply, re.I) is not None
        case "numbered":
            return re.match(r"1[.)] \S", reply) is not None
        case "one word":
            return re.fullmatch(r"\w+[.!]?", reply) is not None
        case _:
            raise ValueError(f"format item of kind {kind!r} has no check")
