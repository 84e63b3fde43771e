"""The language of a text, on labelled sentences; the bounds are those that the docstring states."""

import json
from collections import Counter
from pathlib import Path

import pytest

from eval.behaviour.language import has_switched, language_of

ROWS = [json.loads(line) for line in (Path(__file__).parent / "sentences.jsonl").open("rb")]
LONG = " ".join(row["text"] for row in ROWS if row["language"] == "de")


def test_no_sentence_is_given_a_wrong_language_and_one_is_undecided() -> None:
    pairs = Counter((row["language"], language_of(row["text"])) for row in ROWS)
    assert sum(count for (right, _), count in pairs.items() if right) == 70
    assert {pair for pair in pairs if pair[0] != pair[1]} == {("es", "")}
    assert pairs["es", ""] == 1


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "zh"])
def test_a_longer_text_is_always_told(language: str) -> None:
    texts = [row["text"] for row in ROWS if row["language"] == language]
    for start in range(0, 12, 3):
        assert language_of(" ".join(texts[start : start + 3])) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("\u0434\u043e\u0431\u0440\u043e\u0435 \u0443\u0442\u0440\u043e", "ru"),
        ("\u79c1\u306f\u5b66\u751f\u3067\u3059", "ja"),  # Han letters, but with kana
        ("\u6211\u7528 Python \u5199\u7a0b\u5e8f", "zh"),
        ("\uc548\ub155\ud558\uc138\uc694", "ko"),
        ("Il gatto \u00e8 nella casa e non vuole uscire perch\u00e9 piove", "it"),
        ("De kat is in het huis en wil niet naar buiten", "nl"),
    ],
)
def test_other_scripts_and_neighbours(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I went to Los Angeles, Las Vegas, La Paz and El Paso, Los Gatos, La Jolla.", "en"),
        ("El Paso, Los Angeles, Las Vegas, Santiago de los Caballeros, Puerto de la Cruz", ""),
        ("They sailed from Rio de Janeiro to Mar del Plata and on to Costa de la Luz.", "en"),
        ("Der Hund und die Katze liegen im Haus am See, und es regnet auf die Stadt.", "de"),
        ("La casa de Juan es grande y est\u00e1 cerca de la Universidad de Buenos Aires.", "es"),
    ],
)
def test_names_of_places_are_in_no_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_switch_must_be_plain() -> None:
    assert has_switched(LONG, "en")
    assert not has_switched(LONG, "de")
    assert not has_switched("Paris", "de")
    assert not has_switched("", "zh")
