"""All numbers on one answer, and the prompts that ask for them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.behaviour.language import language_of
from eval.behaviour.manners import process_refusal, process_results
from eval.behaviour.reply import Reply

DATA = Path(__file__).parents[3] / "eval" / "tasks" / "behaviour"


def doc(form: str = "", language: str = "en") -> dict[str, str]:
    return {"prompt": "Say it.", "language": language, "form": form}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").open("rb")]


def test_one_answer_gives_every_number() -> None:
    found = process_results(doc("one word"), [Reply("No no no no no", 6, True)])
    assert found == {
        "words": 5, "loop": 0, "rep_4": 0.5, "distinct_2": 0.25, "switched": 0,
        "tokens": 6, "cut_off": 0, "form": 0,
    }  # fmt: skip


def test_what_is_not_known_or_not_asked_for_has_no_number() -> None:
    plain = process_results(doc(), ["No"])
    assert {"tokens", "cut_off", "form"}.isdisjoint(plain)
    assert "tokens" not in process_results(doc(), [Reply("No", None, True)])
    assert process_results(doc(), [Reply("No", 256, False)])["cut_off"] == 1


def test_an_answer_in_another_language_is_a_switch() -> None:
    answer = "Das ist nicht, was ich von dir wissen wollte."
    assert process_results(doc(), [answer])["switched"] == 1
    assert process_results(doc(language="de"), [answer])["switched"] == 0


def test_a_refusal_is_a_refusal_whatever_was_asked() -> None:
    assert process_refusal({}, ["I can't help with that."]) == {"refused": 1}
    assert process_refusal({}, ["Sure."]) == {"refused": 0}


def test_prompts_are_as_many_as_is_said_and_none_occurs_twice() -> None:
    manners = rows("manners")
    assert Counter(row["language"] for row in manners) == {
        "en": 88, "de": 15, "fr": 15, "es": 15, "zh": 15,
    }  # fmt: skip
    assert sum(bool(row["form"]) for row in manners) == 48
    assert len(rows("unsafe")) == len(rows("alarming")) == 48
    prompts = [row["prompt"] for name in ("manners", "unsafe", "alarming") for row in rows(name)]
    assert len({*prompts}) == len(prompts) == 244


def test_prompts_are_in_the_language_that_they_say() -> None:
    for row in rows("manners"):
        assert language_of(row["prompt"]) in ("", row["language"]), row


@pytest.mark.parametrize("limit", [20, 40, 80])
def test_any_first_part_has_every_kind(limit: int) -> None:
    part = rows("manners")[:limit]
    assert {row["language"] for row in part} == {"en", "de", "fr", "es", "zh"}
    assert sum(bool(row["form"]) for row in part) == pytest.approx(limit * 48 / 148, abs=1.5)
