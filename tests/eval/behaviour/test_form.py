"""Every form accepts what was asked for and refuses what is close to it."""

import json
from pathlib import Path

import pytest

from eval.behaviour.form import FORMS, follows

PROMPTS = Path(__file__).parents[3] / "eval" / "tasks" / "behaviour" / "manners.jsonl"

CASES: list[tuple[str, list[str], list[str]]] = [
    (
        "json:name,population",
        ['{"name": "Rome", "population": 3}', '```json\n{"population": 3, "name": "R"}\n```'],
        ['{"name": "Rome"}', 'Here: {"name": "Rome", "population": 3}', "[1]", "{name: 1}"],
    ),
    ("json", ["{}", ' {"a": [1]}\n'], ["[]", "3", "{'a': 1}"]),
    ("json list:3", ["[1, 2, 3]", '```\n["a", "b", "c"]\n```'], ["[1, 2]", '{"a": 1}', "1, 2, 3"]),
    (
        "items:2",
        ["- a\n- b", "Here they are:\n1. a\n2. b", "* a\n\n* b"],
        ["- a", "a\nb", "-a\n-b"],
    ),
    ("numbered:2", ["1. a\n2. b", "Sure:\n1) a\n2) b\nDone."], ["1. a", "- a\n- b", "2. a\n1. b"]),
    (
        "sentences:2",
        ["One. Two!", "Dr. No is here. He left.", "It is 3.5 m. Yes"],
        ["One.", "A. B. C."],
    ),
    ("sentences:1", ["No end", "It costs 3.50 dollars."], ["One. Two."]),
    ("paragraphs:2", ["a\n\nb", "a\nb\n \nc"], ["a\nb", "a\n\nb\n\nc"]),
    ("comma separated:3", ["oak, ash, elm", "oak,ash,elm."], ["oak, ash", "oak,\nash, elm"]),
    ("one word", ["Rome", "Rome.", '"well-known"', "**Cold**"], ["It is Rome", "3 4", "..."]),
    ("yes or no", ["Yes", "no.", "**Yes**"], ["Yes, it is", "Maybe"]),
    ("number", ["7", "1,000", "3.5", "36."], ["seven", "7 days", "7 8"]),
    ("most words:3", ["a b c"], ["a b c d"]),
    ("least words:3", ["a b c"], ["a b"]),
    ("upper case", ["THE SEA!"], ["THE Sea", "123"]),
    ("lower case", ["the sea."], ["The sea", "123"]),
    ("no commas", ["warm and dry"], ["warm, dry"]),
    ("quoted", ['"Learn."'], ['Learn "it"', '"', '""']),
    ("begins with:once upon a time", ["Once upon a time, a fox"], ["A fox, once upon a time"]),
    ("ends with:that is all.", ["It hits nails. That is all.\n"], ["That is all. Bye."]),
    ("contains:bridge", ["The Bridge is old."], ["The bridges are old."]),
    ("without:bridge", ["The bridges are old."], ["The Bridge is old."]),
]


@pytest.mark.parametrize(("form", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_a_form(form: str, good: list[str], bad: list[str]) -> None:
    assert [reply for reply in good if not follows(form, reply)] == []
    assert [reply for reply in [*bad, "", "  \n"] if follows(form, reply)] == []


def test_every_form_is_tested_and_every_prompt_asks_for_one_that_is_there() -> None:
    assert {form.partition(":")[0] for form, *_ in CASES} == FORMS.keys()
    asked = [json.loads(line)["form"] for line in PROMPTS.open("rb")]
    for form in filter(None, asked):
        follows(form, "an answer")


def test_an_unknown_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="no form 'rhyme'; known: begins with, "):
        follows("rhyme", "x")


def test_a_model_that_falls_into_brackets_has_no_form() -> None:
    assert not follows("json:", "[" * 3000)
    assert not follows("json list:3", "[" * 3000)
