"""Who may see what: rows shared out by hash, training text cleaned of what is probed."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

Row = dict[str, Any]
T = TypeVar("T")

_WORD = re.compile(r"\w+")
GRAM = 13  # words in a row that count as a copy (Brown et al. 2020, arXiv:2005.14165, appendix C)


def table_rows(table: str) -> list[list[str]]:
    """Rows of a table in the source, one a line, cells split at `|`."""
    return [line.split("|") for line in table.strip().splitlines()]


def order(items: Iterable[T], salt: str) -> list[T]:
    """Items in an order that looks random, is the same everywhere, and hardly moves by one more."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{salt}\0{item!r}".encode()).hexdigest())


def cut(items: Iterable[T], share: float, salt: str) -> tuple[list[T], list[T]]:
    """The first `share` of the items in hash order, and the rest."""
    ordered = order(items, salt)
    first = round(len(ordered) * share)
    return ordered[:first], ordered[first:]


def grams(text: str) -> set[tuple[str, ...]]:
    """Runs of 13 words of a text; a shorter text has none."""
    words = _WORD.findall(text.lower())
    return {tuple(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)}


def without_copies(texts: Iterable[str], probed: Iterable[str]) -> list[str]:
    """Texts that share no run of 13 words with a probed text, each once."""
    forbidden: set[tuple[str, ...]] = set().union(*(grams(text) for text in probed))
    starts = {gram[:2] for gram in forbidden}

    def copies(text: str) -> bool:
        words = _WORD.findall(text.lower())
        return any(
            tuple(words[start : start + GRAM]) in forbidden
            for start, pair in enumerate(pairwise(words))
            if pair in starts
        )

    return [text for text in dict.fromkeys(texts) if not copies(text)]


def chat(question: str, answer: str) -> Row:
    """One question and its answer as a conversation."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def preference(question: str, chosen: str, rejected: str) -> Row:
    """A question with a right and a wrong answer."""
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def choice(question: str, right: str, wrong: Sequence[str]) -> Row:
    """A multiple-choice item; the place of the right answer follows from the question."""
    choices = order([right, *wrong], question)
    return {"question": question, "choices": choices, "answer": choices.index(right)}
