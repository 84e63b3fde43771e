"""Builder `python_code`: the source of a code base as text, and as questions about its functions.

The new skill is to read a signature. Probed functions come from modules that no training view has
seen, and neither their signatures nor 13 words of their text occur there.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from cpt.corpora import questions, signatures
from cpt.corpora.shares import Row, chat, order, preference, without_copies
from cpt.corpora.signatures import Function
from cpt.corpora.source import Source, find, split
from cpt.errors import DataError

VERSION = 2  # raised when the same sources would give other rows
VIEWS = (
    "documents",
    "documents_validation",
    "preferences",
    "preferences_validation",
    "probe_skill",
    "probe_text",
    "prompts",
    "questions",
    "questions_validation",
)
_LONGEST = 1500  # characters of a document
_FUNCTIONS = 3000  # functions that training questions are asked about
_PROBED_FUNCTIONS = 1200
_PROBE_ITEMS = 175
_PROBE_TEXTS = 100
_FEWEST_QUESTIONS = 20
_START = re.compile(r"^(?:@|class |(?:async )?def |    @|    (?:async )?def )")
_HEADER = re.compile(r"\bdef +(\w+)\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_WORD = re.compile(r"\w+")


def sources(source: str | None) -> tuple[list[Path], Path]:
    """Files of the source, and their root."""
    found = find(source or "stdlib")
    return list(found.files), found.root


def build(source: str | None) -> dict[str, list[Row]]:
    """All views.

    Raises:
        DataError: the source has too few functions with parameters.
    """
    found = find(source or "stdlib")
    files = split(found)
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in found.files}
    seen = {
        header for path in (*files.train, *files.validation) for header in _headers(texts[path])
    }
    probed: list[Function] = []
    for path in files.probe:
        known = {header.partition(" ")[0] for header in _headers(texts[path]) & seen}
        here = _functions([texts[path]], _PROBED_FUNCTIONS)
        probed += [function for function in here if function.name not in known]
        if len(probed) >= _PROBED_FUNCTIONS:
            break
    probed = list({function.signature: function for function in probed}.values())
    skill = questions.balanced(probed, _PROBE_ITEMS, "probe")
    if len(skill) < _FEWEST_QUESTIONS:
        raise DataError(_too_few(found, len(skill)))
    pieces = [piece for path in files.probe for piece in _probe_pieces(texts[path])]
    probe_texts = order(dict.fromkeys(pieces), "probe_text")[:_PROBE_TEXTS]
    asked = {question.function.signature for question in skill}
    forbidden = [*probe_texts, *asked]

    def documents(paths: Iterable[Path], without: Set[str] = frozenset()) -> list[str]:
        chunks = (chunk for path in paths for chunk in chunk_code(texts[path], _LONGEST))
        return [
            text
            for text in order(without_copies(chunks, forbidden), "documents")
            if text not in without
        ]

    kept = documents(files.train)

    train = _functions((texts[path] for path in files.train), _FUNCTIONS, asked)
    known = asked | {function.signature for function in train}
    validation = _functions((texts[path] for path in files.validation), _FUNCTIONS // 10, known)
    if len(validation) < _FEWEST_QUESTIONS:  # a small source; functions need not be of other files
        held_out = max(1, len(train) // 10)
        train, validation = train[held_out:], [*validation, *train[:held_out]]
    if len(train) < _FEWEST_QUESTIONS:
        raise DataError(_too_few(found, len(train)))
    # Three stages learn from three different sets of functions.
    sft, pairs, checked = (train[part::3] for part in range(3))
    return {
        "documents": [{"text": text} for text in kept],
        # Some files of a code base have pieces in common.
        "documents_validation": [{"text": text} for text in documents(files.validation, set(kept))],
        "preferences": _preferences(pairs, "preferences"),
        "preferences_validation": _preferences(validation, "preferences_validation")[:100],
        "probe_skill": [question.item() for question in skill],
        "probe_text": [{"text": text} for text in probe_texts],
        "prompts": [
            {"prompt": [{"role": "user", "content": question.text}], "answer": question.answer}
            for question in questions.balanced(checked, 1200, "prompts")
        ],
        "questions": _conversations(sft, "questions"),
        "questions_validation": _conversations(validation, "questions_validation")[:100],
    }


def chunk_code(text: str, longest: int) -> list[str]:
    """Pieces of at most `longest` characters, cut before functions and classes where possible."""
    blocks: list[str] = []
    for line in text.expandtabs().splitlines(keepends=True):
        if not blocks or (_START.match(line) and not blocks[-1].lstrip().startswith("@")):
            blocks.append(line)
        else:
            blocks[-1] += line
    chunks, current = [], ""
    for block in blocks:
        for part in _lines_of(block, longest):
            if len(current) + len(part) > longest:
                chunks.append(current)
                current = ""
            current += part
    chunks.append(current)
    return [chunk.strip("\n") + "\n" for chunk in chunks if len(chunk.strip()) >= 200]


def _lines_of(block: str, longest: int) -> Iterator[str]:
    """The block, or runs of its lines when it is longer than `longest`."""
    run = ""
    for line in block.splitlines(keepends=True):
        if len(run) + len(line) > longest and run:
            yield run
            run = ""
        run += line[:longest]
    yield run


def _probe_pieces(text: str) -> list[str]:
    """Functions of 150 to 260 characters, short enough to score many."""
    return [
        piece
        for piece in re.split(r"\n\s*\n(?=\s*(?:@|class |def ))", text.expandtabs())
        if 150 <= len(piece.strip()) <= 260 and "def " in piece and piece.isascii()
    ]


def _headers(text: str) -> set[str]:
    """The name and the words between the parentheses of each `def`, by text alone: it is fast."""
    return {" ".join([match[1], *_WORD.findall(match[2])]) for match in _HEADER.finditer(text)}


def _functions(texts: Iterable[str], most: int, without: Set[str] = frozenset()) -> list[Function]:
    """Functions with different signatures, in hash order; stops reading after `most` functions."""
    found: dict[str, Function] = {}
    for text in texts:
        for function in signatures.functions(text):
            if function.signature not in without:
                found.setdefault(function.signature, function)
        if len(found) >= most:
            break
    return [found[signature] for signature in order(found, "functions")]


def _conversations(functions: Sequence[Function], name: str) -> list[Row]:
    """Questions on signatures, and one in eleven on what a function is for."""
    rows = [
        chat(question.text, question.answer)
        for question in questions.balanced(functions, len(functions), name)
    ]
    purposes = [
        chat(f"{function.signature}\nWhat does this Python function do?", function.summary)
        for function in functions
        if function.summary
    ]
    generator = random.Random(name)
    rows += purposes[: len(rows) // 10]
    generator.shuffle(rows)
    return rows


def _preferences(functions: Sequence[Function], name: str) -> list[Row]:
    return [
        preference(question.text, question.answer, question.wrong())
        for question in questions.balanced(functions, len(functions), name)
    ]


def _too_few(source: Source, number: int) -> str:
    return (
        f"source {source.name!r}: {number} usable functions in {len(source.files)} files of "
        f"{source.root}, at least {_FEWEST_QUESTIONS} are needed in files that are kept for "
        f"probes; name a larger source"
    )
