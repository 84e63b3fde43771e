"""Builder `general`: what a base model can already do, to probe it and to rehearse it.

Facts, arithmetic, everyday sense, output formats, grammar and prose. Nothing that is probed is
trained on: countries, numbers, words and files are shared out first.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from cpt.corpora import english, formats, prose, world
from cpt.corpora.shares import Row, chat, choice, cut, order, without_copies

VIEWS = (
    "chat",
    "chat_validation",
    "documents",
    "documents_validation",
    "probe_arithmetic",
    "probe_commonsense",
    "probe_english",
    "probe_facts",
    "probe_format",
    "probe_prose",
)
_VALIDATION = 0.1


def sources(source: None) -> tuple[list[Path], Path]:
    """Files outside this package that the views are made from, and their root."""
    return prose.files(), prose.tasks_folder()


def build(source: None) -> dict[str, list[Row]]:
    """All views."""
    probe_facts, fact_chats = _facts()
    probe_sums, sum_chats = _arithmetic()
    probe_sense, sense_chats = _sense()
    probe_prose, documents, examples = _prose()
    chats = [*fact_chats, *sum_chats, *sense_chats, *examples, *formats.chats()]
    validation, train = cut(chats, _VALIDATION, "chat")
    text_validation, text_train = cut(documents, _VALIDATION, "documents")
    return {
        "chat": train,
        "chat_validation": validation,
        "documents": [{"text": text} for text in text_train],
        "documents_validation": [{"text": text} for text in text_validation],
        "probe_arithmetic": probe_sums,
        "probe_commonsense": probe_sense,
        "probe_english": _english(),
        "probe_facts": probe_facts,
        "probe_format": formats.probe(),
        "probe_prose": [{"text": text} for text in probe_prose],
    }


def _others(right: str, pool: Sequence[str], salt: str, number: int = 3) -> list[str]:
    return order({word for word in pool if word != right}, salt)[:number]


def _facts() -> tuple[list[Row], list[Row]]:
    """Capitals, continents, languages and cities: probed countries, and other ones to rehearse."""
    countries = world.rows(world.COUNTRIES)
    probed, trained = cut(countries, 0.65, "countries")
    by_continent: dict[str, list[str]] = {}
    for name, _, continent, _ in countries:
        by_continent.setdefault(continent, []).append(name)
    continents = [name for name in by_continent if " " not in name]
    items: list[Row] = []
    for name, capital, continent, _ in probed:
        if name not in capital:
            asked = f"{capital} is the capital of"
            pool = by_continent[continent]
            if len(pool) < 4:
                pool = [country for row in countries for country in row[:1]]
            items.append(choice(asked, name, _others(name, pool, asked)))
        if continent in continents:
            asked = f"{name} is a country in"
            items.append(choice(asked, continent, _others(continent, continents, asked)))
    cities = world.rows(world.CITIES)
    probed_cities, trained_cities = cut(cities, 0.65, "cities")
    single = [name for _, name in cities if " " not in name]
    for city, name in probed_cities:
        asked = f"The city of {city} is in"
        items.append(choice(asked, name, _others(name, single, asked)))
    chats = []
    for name, capital, continent, language in trained:
        chats += [
            chat(f"What is the capital of {name}?", f"The capital of {name} is {capital}."),
            chat(f"On which continent is {name}?", f"{name} is in {continent}."),
            chat(f"Which language is spoken in {name}?", f"Many people in {name} speak {language}."),
        ]
    chats += [
        chat(f"In which country is {city}?", f"{city} is in {name}.")
        for city, name in trained_cities
    ]
    return order(items, "facts"), chats


def _arithmetic() -> tuple[list[Row], list[Row]]:
    """Sums and differences, probed as `17 + 5 =` and rehearsed with other numbers in words."""
    problems = [(a, sign, b) for a in range(11, 60) for sign in "+-" for b in range(2, 10)]
    problems = [problem for problem in problems if problem[0] - problem[2] >= 10]
    probed, trained = cut(problems, 0.25, "arithmetic")
    items = []
    for a, sign, b in probed[:150]:
        right = a + b if sign == "+" else a - b
        tens = right - right % 10
        near = [tens + (right + step) % 10 for step in (1, 9, 2, 8)]
        question = f"{a} {sign} {b} ="
        items.append(choice(question, str(right), [str(n) for n in order(near, question)[:3]]))
    chats = []
    for a, sign, b in trained[:150]:
        if sign == "+":
            chats.append(chat(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."))
        else:
            chats.append(chat(f"What is {a} minus {b}?", f"{a} minus {b} is {a - b}."))
    return items, chats


def _sense() -> tuple[list[Row], list[Row]]:
    """Everyday knowledge as the end of a sentence."""
    probed, trained = cut(world.rows(world.SENSE), 0.85, "sense")
    items = [choice(start, right, wrong.split(",")) for start, right, wrong in probed]
    chats = [
        chat(f"Complete the sentence: {start}", f"{start} {right}.") for start, right, _ in trained
    ]
    return items, chats


def _english() -> list[Row]:
    """Minimal pairs, an equal number of each phenomenon."""
    count: dict[str, int] = {}
    items = []
    for pair in english.pairs(seed=1):
        count[pair.kind] = count.get(pair.kind, 0) + 1
        if count[pair.kind] <= 20:
            items.append({"kind": pair.kind, **choice(pair.beginning, pair.good, [pair.bad])})
    return items


def _prose() -> tuple[list[str], list[str], list[Row]]:
    """Probed passages, other passages to rehearse, and worked examples of other subjects."""
    readmes, examples = prose.readme_paragraphs(), prose.worked_examples()
    probed_tasks, trained_tasks = cut(readmes, 0.3, "tasks")
    probed_subjects, trained_subjects = cut(examples, 0.45, "subjects")
    probed = [
        piece
        for text in (
            *(text for task in probed_tasks for text in readmes[task]),
            *(text for subject in probed_subjects for text in _explanations(examples[subject])),
        )
        for piece in prose.pieces(text, 130, 260)
    ]
    probed = order(probed, "prose")[:110]
    trained = without_copies(
        (
            *(text for task in trained_tasks for text in readmes[task]),
            *(text for subject in trained_subjects for text in _explanations(examples[subject])),
        ),
        probed,
    )
    chats = [
        chat(question, f"{explanation} The answer is ({letter}).")
        for subject in trained_subjects
        for question, explanation, letter in examples[subject]
        if len(question) + len(explanation) < 700
    ]
    return probed, trained, chats


def _explanations(examples: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    for question, explanation, _ in examples:
        yield from (text for text in (question.partition("\n(A)")[0], explanation) if prose.is_prose(text))


def seeded(name: str) -> random.Random:
    """A random generator that belongs to one view."""
    return random.Random(f"general/{name}")
