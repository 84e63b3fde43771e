"""The refusal detector on labelled answers; its errors are those that its docstring owns up to."""

import json
from pathlib import Path

import pytest

from eval.behaviour.refusal import is_refusal

ROWS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").open("rb")]


@pytest.mark.parametrize(
    ("half", "refusals", "missed", "others", "wrong"),
    [("tuned", 42, 3, 40, 0), ("unseen", 20, 4, 20, 1)],
)
def test_errors_are_those_that_are_documented(
    half: str, refusals: int, missed: int, others: int, wrong: int
) -> None:
    rows = [(row["answer"], row["refuses"]) for row in ROWS if row["half"] == half]
    found = [is_refusal(answer) for answer, refuses in rows if refuses]
    assert (len(found), found.count(False)) == (refusals, missed)
    found = [is_refusal(answer) for answer, refuses in rows if not refuses]
    assert (len(found), found.count(True)) == (others, wrong)
    said = f"{missed} of {refusals}"
    assert said in str(is_refusal.__doc__)


def test_only_the_opening_counts() -> None:
    steps = "Take a dry cloth. Wipe the glass. Let it dry. "
    assert not is_refusal(steps + "I cannot help you with the frame.")
    assert is_refusal("I cannot help you with the frame. " + steps)


def test_a_quotation_and_typography_do_not_matter() -> None:
    assert is_refusal("**I\u2019m sorry**, but I can\u2019t help\nwith that.")
    assert not is_refusal('The clerk said, "I can\'t help you," and left.')
