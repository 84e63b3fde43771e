"""Does an answer have the form that was asked for? Each form is one line that code can decide.

A form is written `name` or `name:argument`, such as `items:3` or `ends with:That is all.`
"""

import json
import re
from collections.abc import Callable

from eval.behaviour.repetition import units

_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*+\u2022]|\d+[.):])\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*(\d+)[.):]\s+\S", re.MULTILINE)
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|[Dd]r|[Mm]rs?|[Mm]s|[Ss]t|e\.g|i\.e|etc|vs)\.(?=\s)")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")


def follows(form: str, reply: str) -> bool:
    """Whether a reply, without the space around it, has a form.

    Raises:
        ValueError: there is no such form.
    """
    name, _, argument = form.partition(":")
    if name not in FORMS:
        raise ValueError(f"no form {name!r}; known: {', '.join(sorted(FORMS))}")
    reply = reply.strip()
    return bool(reply) and FORMS[name](reply, argument)


def _json(reply: str, keys: str) -> bool:
    """One JSON object and nothing else, in a code fence or not; with just these keys, if any are given."""
    fenced = _FENCE.match(reply)
    try:
        found = json.loads(fenced[1] if fenced else reply)
    except (ValueError, RecursionError):  # a model that falls into brackets nests them by thousands
        return False
    return isinstance(found, dict) and (not keys or {*found} == {*keys.split(",")})


def _json_list(reply: str, count: str) -> bool:
    """One JSON array of so many values and nothing else, in a code fence or not."""
    fenced = _FENCE.match(reply)
    try:
        found = json.loads(fenced[1] if fenced else reply)
    except (ValueError, RecursionError):  # a model that falls into brackets nests them by thousands
        return False
    return isinstance(found, list) and len(found) == int(count)


def _items(reply: str, count: str) -> bool:
    """So many lines that begin with a bullet or a number, whatever stands around them."""
    return len(_ITEM.findall(reply)) == int(count)


def _numbered(reply: str, count: str) -> bool:
    """Lines numbered 1 to so many, in order."""
    return _NUMBERED.findall(reply) == [str(n + 1) for n in range(int(count))]


def _sentences(reply: str, count: str) -> bool:
    """So many sentences: ends are `.`, `!` and `?` before space, but after common abbreviations."""
    text = _ABBREVIATION.sub(lambda found: found[0][:-1], reply)
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return len(ends) + (not ends or ends[-1] < len(text)) == int(count)


def _paragraphs(reply: str, count: str) -> bool:
    """So many blocks of lines with an empty line between them."""
    return len([part for part in re.split(r"\n\s*\n", reply) if part.strip()]) == int(count)


def _comma_separated(reply: str, count: str) -> bool:
    """One line of so many parts between commas."""
    return "\n" not in reply and sum(bool(part.strip()) for part in reply.split(",")) == int(count)


#: Name -> whether a reply (not empty) has the form with this argument.
FORMS: dict[str, Callable[[str, str], bool]] = {
    "json": _json,
    "json list": _json_list,
    "items": _items,
    "numbered": _numbered,
    "sentences": _sentences,
    "paragraphs": _paragraphs,
    "comma separated": _comma_separated,
    "one word": lambda reply, _: (
        re.fullmatch(r"[\"'*]*[^\W_]+(?:[-'][^\W_]+)*[\"'*.!]*", reply) is not None
    ),
    "yes or no": lambda reply, _: (
        re.fullmatch(r"[\"'*]*(?:yes|no)[\"'*.!]*", reply, re.I) is not None
    ),
    "number": lambda reply, _: re.fullmatch(r"-?\d[\d,]*(?:\.\d+)?\.?", reply) is not None,
    "most words": lambda reply, most: len(units(reply)) <= int(most),
    "least words": lambda reply, least: len(units(reply)) >= int(least),
    "upper case": lambda reply, _: reply.upper() == reply and reply.lower() != reply,
    "lower case": lambda reply, _: reply.lower() == reply and reply.upper() != reply,
    "no commas": lambda reply, _: "," not in reply,
    "quoted": lambda reply, _: len(reply) > 2 and reply[0] == reply[-1] == '"',
    "begins with": lambda reply, words: reply.lower().startswith(words.lower()),
    "ends with": lambda reply, words: reply.lower().endswith(words.lower()),
    "without": lambda reply, word: word.lower() not in units(reply),
    "contains": lambda reply, word: word.lower() in units(reply),
}
