"""Requests for a form of output that code can check: capitals, JSON, lists, one word, yes or no.

The checks stand in `eval/tasks/format_check.py`. What is rehearsed has other words and another wording.
"""

import random
from collections.abc import Sequence

from cpt.corpora.shares import Row, chat, cut, order

_WORDS = (
    "river table garden silver window candle mountain bottle pencil market orange travel winter "
    "yellow doctor kitchen thunder ticket village basket mirror island butter forest camera pillow "
    "hammer dragon planet rabbit station teacher museum guitar castle summer engine coffee ladder "
    "picture blanket saddle button lemon tunnel feather rocket wallet harbor carpet"
).split()
_NAMES = (
    "Anna Peter Laura David Emma Simon Maria Oscar Julia Martin Clara Felix Alice Robert Nina Paul "
    "Sarah Thomas Helen Victor Diana George Linda Henry Ruth Frank Sophie Daniel"
).split()
_YES = (
    "Is ice cold?|Can birds fly?|Is the sun hot?|Do fish swim?|Is sugar sweet?|Do cats have tails?|"
    "Is snow white?|Do trees grow?|Is Paris in France?|Do cows eat grass?"
).split("|")
_NO = (
    "Is fire cold?|Can stones talk?|Is the moon made of cheese?|Do dogs have wings?|Is milk black?|"
    "Do cars eat grass?|Is a week ten days long?|Can fish walk to school?|Is salt sweet?|"
    "Is London in Japan?"
).split("|")
_EACH = 18


def _row(kind: str, question: str, answer: str) -> Row:
    return {"kind": kind, "question": question, "answer": answer}


def _triples(words: Sequence[str], number: int, salt: str) -> list[list[str]]:
    generator = random.Random(salt)
    return [generator.sample(words, 3) for _ in range(number)]


def _shares() -> tuple[list[str], list[str], list[str], list[str]]:
    probed_words, trained_words = cut(_WORDS, 0.5, "words")
    probed_names, trained_names = cut(_NAMES, 0.65, "names")
    return probed_words, trained_words, probed_names, trained_names


def probe() -> list[Row]:
    """Items `{kind, question, answer}`; `answer` is one right reply."""
    words, _, names, _ = _shares()
    rows = [
        _row("exact", f"Write the word {word!r} in capital letters. Reply with one word.", word.upper())
        for word in words[:_EACH]
    ]
    rows += [
        _row("exact", f"Repeat this word and write nothing else: {word}", word)
        for word in words[-_EACH:]
    ]
    rows += [
        _row("exact", f"Join these words with commas: {' '.join(three)}", ", ".join(three))
        for three in _triples(words, _EACH, "commas")
    ]
    rows += [
        _row("json", f'Write JSON with the key "name" and the value "{name}".', f'{{"name": "{name}"}}')
        for name in names[:_EACH]
    ]
    rows += [
        _row("yes or no", f"{question} Reply with yes or no.", answer)
        for answer, questions in (("Yes", _YES), ("No", _NO))
        for question in questions
    ]
    rows += [
        _row("quotes", f'Put this word in double quotes: {word}', f'"{word}"')
        for word in words[:_EACH]
    ]
    return order(rows, "format")


def chats() -> list[Row]:
    """Conversations in which the reply keeps to a form."""
    _, words, _, names = _shares()
    rows = []
    for word in words:
        rows += [
            chat(f"Please give me {word} in upper case, just the word.", word.upper()),
            chat(f"Say {word} and nothing more.", word),
            chat(f"Surround {word} with quotation marks.", f'"{word}"'),
        ]
    for three in _triples(words, 25, "rehearsed"):
        listed = "\n".join(f"- {word}" for word in three)
        rows += [
            chat(f"Make a bullet list of {three[0]}, {three[1]} and {three[2]}.", listed),
            chat(
                f"Separate these by commas, please: {three[0]} / {three[1]} / {three[2]}",
                ", ".join(three),
            ),
        ]
    for name in names:
        rows.append(chat(f"Give {name} as a JSON object with one key, name.", f'{{"name": "{name}"}}'))
    return rows
