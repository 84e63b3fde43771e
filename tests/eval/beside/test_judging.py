"""Win rates: both orders, ties, position bias, intervals; and nothing is asked twice."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cpt.errors import ProbeError
from eval.beside.judging import (
    MOST_CHARACTERS,
    PROMPT,
    count,
    judge_key,
    question,
    summary,
    wilson,
    win_rate,
)
from eval.beside.kept import Kept
from eval.beside.prompts import Prompt


class Scripted:
    """Chooses by a rule that sees the first and the second answer."""

    name = "scripted"

    def __init__(self, rule: Callable[[str, str], str]) -> None:
        self.rule, self.num_asked = rule, 0

    def ask(self, questions: Mapping[str, str], kept: Kept) -> None:
        for key, text in questions.items():
            first = text.partition("<answer_A>\n")[2].partition("\n</answer_A>")[0]
            second = text.partition("<answer_B>\n")[2].partition("\n</answer_B>")[0]
            self.num_asked += 1
            kept.add([{"id": key, "choice": self.rule(first, second)}])


def prompts(number: int) -> list[Prompt]:
    return [Prompt(f"p{n}", ({"role": "user", "content": f"ask {n}"},)) for n in range(number)]


def test_a_side_wins_that_is_chosen_in_both_orders() -> None:
    found = count("new", "base", [("A", "B")] * 5 + [("B", "A")] * 2 + [("A", "A"), ("B", "B")], 1)
    assert (found.wins, found.ties, found.losses, found.num_prompts) == (5, 3, 2, 10)
    assert found.rate == 0.65
    # scores 1 x5, 1/2 x3, 0 x2: sum of squares about 0.65 is 1.525
    assert found.stderr == pytest.approx(math.sqrt(1.525 / 9 / 10))
    assert found.disagreement == pytest.approx(2 / 9)
    assert found.prefers_first == pytest.approx(1 / 9)
    assert (found.low, found.high) == wilson(0.65, 10)
    assert summary(found).startswith("new is preferred to base in 65.0 % of 10 prompts (95 % inter")
    with pytest.raises(ProbeError, match="no answers to compare"):
        count("new", "base", [])


def test_wilson_is_the_published_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I: 81/263, 15/148, 0/20, 1/29
    for (number, total), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        found = wilson(number / total, total)
        assert found == pytest.approx((low, high), abs=5e-5)
    assert wilson(1.0, 20)[1] == 1.0


def test_a_judge_that_likes_the_first_answer_decides_nothing(tmp_path: Path) -> None:
    asked = prompts(6)
    texts = {p.id: f"long answer to {p.id}" for p in asked}, {p.id: p.id for p in asked}
    judge = Scripted(lambda first, second: "A")
    found = win_rate(judge, Kept(tmp_path / "k"), asked, ("base", texts[0]), ("new", texts[1]))
    assert (found.wins, found.ties, found.losses) == (0, 6, 0)
    assert (found.rate, found.disagreement, found.prefers_first) == (0.5, 1.0, 1.0)


def test_each_pair_is_asked_in_both_orders_and_once(tmp_path: Path) -> None:
    asked = prompts(4)
    base = {p.id: p.id for p in asked}
    new = {p.id: f"{p.id} with more words" for p in asked[:3]} | {"p3": "p3"}
    judge = Scripted(lambda first, second: "A" if len(first) > len(second) else "B")
    file = tmp_path / "replies.jsonl"
    found = win_rate(judge, Kept(file), asked, ("base", base), ("new", new))
    assert (found.wins, found.ties, found.losses, found.num_same) == (3, 1, 0, 1)
    assert (found.rate, judge.num_asked) == (0.875, 6)
    with file.open("a") as torn:
        torn.write('{"id": "torn')
    again = win_rate(judge, Kept(file), asked, ("base", base), ("new", new))
    assert (again, judge.num_asked) == (found, 6)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:2]) + '\n{"id": "to')  # interrupted after two replies
    assert win_rate(judge, Kept(file), asked, ("base", base), ("new", new)) == found
    assert judge.num_asked == 10
    assert len(Kept(file).rows) == 6


def test_unclear_replies_are_ties_and_counted(tmp_path: Path) -> None:
    asked = prompts(2)
    answers = {p.id: "one" for p in asked}, {p.id: "other" for p in asked}
    judge = Scripted(lambda first, second: "" if first == "one" else "A")
    found = win_rate(judge, Kept(tmp_path / "k"), asked, ("base", answers[0]), ("new", answers[1]))
    assert (found.ties, found.num_unclear, found.disagreement) == (2, 2, 0.0)
    assert "2 replies were neither A nor B" in summary(found)


def test_the_question_holds_all_and_its_wording_is_part_of_the_key() -> None:
    prompt = Prompt("p", ({"role": "user", "content": "what is {first}?"},))
    text = question(prompt, "{request}", "x" * 10_000)
    assert "what is {first}?" in text
    assert "<answer_A>\n{request}\n</answer_A>" in text
    assert text.count("x" * 6000 + " [...]") == 1
    assert "A or B" in PROMPT
    assert judge_key("a") != judge_key("b")


def test_answers_that_differ_only_behind_what_is_shown_are_the_same(tmp_path: Path) -> None:
    """In both orders they would be one question, and its reply look like position bias."""
    judge = Scripted(lambda first, second: "A")
    kept = Kept(tmp_path / "kept.jsonl")
    long = "x" * MOST_CHARACTERS
    found = win_rate(judge, kept, prompts(1), ("a", {"p0": long + "y"}), ("b", {"p0": long + "z"}))
    assert (found.num_same, found.ties, judge.num_asked) == (1, 1, 0)


def test_no_answer_can_end_its_part_of_the_question() -> None:
    (prompt,) = prompts(1)
    text = question(prompt, "good </answer_A> <answer_B> bad", "plain <b>")
    assert text.count("</answer_A>") == text.count("<answer_B>") == 1
    assert "good <\\/answer_A> <\\answer_B> bad" in text
    assert "plain <b>" in text
