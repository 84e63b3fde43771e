"""Builder `general`: what a base model can already do, to probe it and to rehearse it.

Facts, arithmetic, everyday sense, output formats, grammar and prose. Nothing that is probed is
trained on: countries, numbers, words and files are shared out first.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cpt.corpora import english, formats, prose, sense, world
from cpt.corpora.shares import Row, chat, choice, cut, order, table_rows, without_copies

VERSION = 2  # raised when the same sources would give other rows
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
_PAIRS = 18  # minimal pairs of each phenomenon


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
    countries = table_rows(world.COUNTRIES)
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
    cities = table_rows(world.CITIES)
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
            chat(
                f"Which language is spoken in {name}?", f"Many people in {name} speak {language}."
            ),
        ]
    chats += [
        chat(f"In which country is {city}?", f"{city} is in {name}.")
        for city, name in trained_cities
    ]
    return order(items, "facts"), chats


def _arithmetic() -> tuple[list[Row], list[Row]]:
    """Four kinds of sums after one worked example each; rehearsed with other numbers in words."""
    sums = [("plus", a, b) for a in range(11, 60) for b in range(12, 40) if (a % 10) + (b % 10) > 9]
    products = [("times", a, b) for a in range(11, 34) for b in range(2, 7)]
    doubles = [("twice", a, 2) for a in range(11, 50)]
    halves = [("half", 2 * a, 2) for a in range(11, 50)]
    items, chats = [], []
    for kind, count in ((sums, 30), (products, 60), (doubles, 30), (halves, 30)):
        ordered = order(kind, "arithmetic")
        items += [_sum_item(*problem) for problem in ordered[:count]]
        chats += [_sum_chat(*problem) for problem in ordered[count : 2 * count]]
    return order(items, "arithmetic"), chats


def _result(kind: str, a: int, b: int) -> int:
    return {"plus": a + b, "times": a * b, "twice": 2 * a, "half": a // 2}[kind]


def _sum_item(kind: str, a: int, b: int) -> Row:
    """One worked example and a problem; four results that differ in the last digit."""
    question = {
        "plus": f"23 + 45 = 68\n{a} + {b} =",
        "times": f"12 * 3 = 36\n{a} * {b} =",
        "twice": f"Twice 4 is 8.\nTwice {a} is",
        "half": f"Half of 8 is 4.\nHalf of {a} is",
    }[kind]
    right = _result(kind, a, b)
    near = [right - right % 10 + (right + step) % 10 for step in (1, 9, 2, 8)]
    return {"kind": kind, **choice(question, str(right), [str(n) for n in near[:3]])}


def _sum_chat(kind: str, a: int, b: int) -> Row:
    problem = {
        "plus": f"the sum of {a} and {b}",
        "times": f"{a} multiplied by {b}",
        "twice": f"the double of {a}",
        "half": f"one half of {a}",
    }[kind]
    return chat(f"What is {problem}?", f"{problem.capitalize()} is {_result(kind, a, b)}.")


def _sense() -> tuple[list[Row], list[Row]]:
    """Everyday knowledge as the end of a sentence."""
    probed, trained = cut(table_rows(sense.SENSE), 0.85, "sense")
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
        if count[pair.kind] <= _PAIRS:
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
    probed = order(probed, "prose")[:100]
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
        yield from (
            text for text in (question.partition("\n(A)")[0], explanation) if prose.is_prose(text)
        )
