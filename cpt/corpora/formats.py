"""Requests for a form of reply that code can check: copy this, begin with that, a list, yes or no.

The checks stand in `eval/tasks/format_check.py`. What is rehearsed has other words and another
wording.
"""

import random
from collections.abc import Sequence

from cpt.corpora.shares import Row, chat, cut, order

_WORDS = (
    "river|table|garden|silver|window|candle|mountain|bottle|pencil|market|orange|travel|winter|"
    "yellow|doctor|kitchen|thunder|ticket|village|basket|mirror|island|butter|forest|camera|pillow|"
    "hammer|dragon|planet|rabbit|station|teacher|museum|guitar|castle|summer|engine|coffee|ladder|"
    "picture|blanket|saddle|button|lemon|tunnel|feather|rocket|wallet|harbor|carpet"
)
_NAMES = (
    "Anna|Peter|Laura|David|Emma|Simon|Maria|Oscar|Julia|Martin|Clara|Felix|Alice|Robert|Nina|Paul|"
    "Sarah|Thomas|Helen|Victor|Diana|George|Linda|Henry|Ruth|Frank|Sophie|Daniel"
)
_SENTENCES = (
    "The train leaves at nine in the morning.|My sister plays the violin.|"
    "Seven small boats are on the lake.|We will meet again on Friday.|"
    "The old bridge was built of stone.|Nobody heard the bell last night.|"
    "She found two coins under the chair.|The shop opens after the long break.|"
    "His uncle repairs clocks and radios.|It rained for three days in May.|"
    "The cat sleeps behind the warm stove.|Our neighbors moved to the north.|"
    "The letter came too late for him.|A tall man stood near the door.|"
    "They sold the house with the red roof.|The children painted a blue whale.|"
    "I lost my gloves on the way home.|The soup needs a little more salt.|"
    "Four birds sat on the garden wall.|He wrote a short poem about rain.|"
    "The river was frozen until April.|She speaks slowly and very clearly.|"
    "The road ends at a small harbor.|We planted ten apple trees last fall.|"
    "The baker wakes up before the sun.|My watch stopped at half past six.|"
    "The museum is closed on Mondays.|An owl lives in the old tower.|"
    "They drank tea in the quiet kitchen.|The ship carried wood and coal.|"
    "Her brother studies law in the city.|The lamp on the desk is broken.|"
    "We saw a fox at the edge of the field.|The key hangs next to the mirror.|"
    "He forgot the name of the village.|The concert begins in half an hour."
)
_BEGINNINGS = "Once|One day|Last night|Suddenly|Every morning|Long ago|In the end|Far away"
_CLAIMS = (
    "Is a garden made of cheese?|Is snow white?|Can a river talk?|Do cats have tails?|"
    "Is ice colder than fire?|Can a table swim?|Do birds have wings?|Is a week ten days long?|"
    "Is Paris a city?|Do stones eat grass?|Is a lemon sour?|Can a fish walk to school?"
)
_THINGS = (
    "to do in a garden|to buy at a market|to see in a museum|to pack for a trip|to cook at home|"
    "to learn in winter|to read on a train|to plant in spring|to say to a friend|to fix in a house"
)
_OPPOSITES = "hot|big|old|up|early|rich|wet|strong"
_COPY = ("Repeat after me: {}", "Copy this text: {}", 'Write the sentence "{}" again.')


def _row(kind: str, question: str, answer: str) -> Row:
    return {"kind": kind, "question": question, "answer": answer}


def _shares() -> tuple[list[str], list[str], list[str], list[str], list[str], list[str]]:
    return (
        *cut(_WORDS.split("|"), 0.5, "words"),
        *cut(_NAMES.split("|"), 0.6, "names"),
        *cut(_SENTENCES.split("|"), 0.67, "copy"),
    )


def probe() -> list[Row]:
    """Items `{kind, question, answer}`; what `answer` means depends on the kind."""
    words, _, names, _, sentences, _ = _shares()
    rows = [
        _row("copy", wording.format(sentence), sentence)
        for number, sentence in enumerate(sentences)
        for wording in (_COPY[number % 3], _COPY[(number + 1) % 3])
    ]
    rows += [
        _row(
            "beginning",
            f'Write the first sentence of a story about a {word}. Begin with "{beginning}".',
            beginning,
        )
        for word, beginning in zip(words, _BEGINNINGS.split("|") * 2, strict=False)
    ]
    rows += [_row("yes or no", f"{claim} Answer yes or no.", "") for claim in _CLAIMS.split("|")]
    rows += [
        _row("numbered", f"Write a numbered list of things {thing}.", "")
        for thing in _THINGS.split("|")
    ]
    rows += [_row("greeting", f"Say hello to {name}.", name) for name in names]
    rows += [
        _row("one word", f"Answer with one word. What is the opposite of {word}?", "")
        for word in _OPPOSITES.split("|")
    ]
    return order(rows, "format")


def chats() -> list[Row]:
    """Conversations in which the reply keeps to a form."""
    _, words, _, names, _, sentences = _shares()
    rows = []
    for word in words:
        rows += [
            chat(f"Please give me {word} in upper case, just the word.", word.upper()),
            chat(f"Say {word} and nothing more.", word),
            chat(f"Surround {word} with quotation marks.", f'"{word}"'),
        ]
    for three in _triples(words, 25):
        listed = "\n".join(f"- {word}" for word in three)
        rows += [
            chat(f"Make a bullet list of {three[0]}, {three[1]} and {three[2]}.", listed),
            chat(
                f"Separate these by commas, please: {three[0]} / {three[1]} / {three[2]}",
                ", ".join(three),
            ),
        ]
    for name in names:
        rows += [
            chat(f"Give {name} as a JSON object with one key, name.", f'{{"name": "{name}"}}'),
            chat(f"How do I begin a letter to {name}?", f"Dear {name},"),
        ]
    rows += [chat(f"Type this line once more: {sentence}", sentence) for sentence in sentences]
    return rows


def _triples(words: Sequence[str], number: int) -> list[list[str]]:
    generator = random.Random("rehearsed")
    return [generator.sample(words, 3) for _ in range(number)]
