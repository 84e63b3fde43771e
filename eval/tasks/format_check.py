"""Does a reply keep to the form that was asked for? Used by `format.yaml`; imports only the standard library."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one reply: `acc` is 1 when it keeps to the form."""
    return {"acc": float(follows(doc["kind"], doc["answer"], results[0]))}


def follows(kind: str, answer: str, reply: str) -> bool:
    """True when `reply` is what was asked for.

    Args:
        kind: exact (that text, a final full stop allowed), quotes, yes or no (that word, any case),
            json (an object equal to `answer`).
        answer: one right reply.
        reply: what the model wrote.
    """
    reply = reply.strip()
    if kind == "json":
        try:
            return bool(json.loads(reply) == json.loads(answer))
        except ValueError:
            return False
    if kind == "yes or no":
        return reply.rstrip(".!").lower() == answer.lower()
    if kind in ("exact", "quotes"):
        return reply == answer or reply.removesuffix(".") == answer
    raise ValueError(f"format item of kind {kind!r}; known: exact, quotes, yes or no, json")
