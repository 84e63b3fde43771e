"""The comparison as HTML, Markdown, JSON and on a terminal: the numbers, and text that stays text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.beside.answers import Answers, Sampling
from eval.beside.judging import PROMPT, count
from eval.beside.page import html
from eval.beside.prompts import Prompt
from eval.beside.story import Generations, Story, Verdicts
from eval.beside.table import compare_rows
from eval.beside.terminal import terminal
from eval.beside.texts import content, markdown
from eval.matrix import Row, read_row
from tests.probe_results import SUITE_HASH, cell, flip, result, right, write

NASTY = "<script>alert('x')</script> \"&amp; </div></style> \x1b[31m \ud800 \u202e |`*"
FACTS = right(0.5)
TEXT = [1.0 + 0.01 * n for n in range(40)]


class _Checker(HTMLParser):
    """Every element is closed in order; scripts, handlers and outside resources are found."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.suspect: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "wbr", "br"):
            self.open.append(tag)
        names = [name for name, _ in attrs]
        if tag in ("script", "link", "img", "iframe") or {"src", "href"} & set(names):
            self.suspect.append(tag)
        self.suspect += [name for name in names if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def rows(folder: Path, answer: str = "an answer") -> list[Row]:
    def bits(values: list[float]) -> dict[str, object]:
        more = {"metric": "bits_per_byte", "higher_is_better": False, "group": "language"}
        return cell(values, **more)

    found = {
        "base": result({"facts": FACTS, "prose": bits(TEXT)}),
        "sft": result({"facts": flip(FACTS, 60, 4), "prose": bits([v - 0.2 for v in TEXT])}),
        "a_model_with_a_name_that_goes_on_and_on": result({"facts": FACTS, "prose": bits(TEXT)}),
    }
    for one in found.values():
        for item in one["probes"]["facts"]["items"]:
            item["answer"] = item["text"] = answer
    files = [write(folder / f"{n}.json", r) for n, r in enumerate(found.values())]
    return [read_row(n, f"{n}-1", f, SUITE_HASH) for n, f in zip(found, files, strict=True)]


def story(folder: Path, answer: str = "an answer") -> Story:
    three = rows(folder, answer)
    table = compare_rows("small", SUITE_HASH, three, "base", 0.02)
    prompts = tuple(
        Prompt(f"p{n}", ({"role": "user", "content": f"{n} {answer}"},)) for n in range(5)
    )
    answers = tuple(
        Answers(row.stage, {p.id: f"{row.stage} says {answer}" for p in prompts}, 2, n != 1)
        for n, row in enumerate(three)
    )
    generations = Generations(prompts, Sampling(64), answers, ("a.jsonl", "b.jsonl", "c.jsonl"))
    rates = (
        count("sft", "base", [("A", "B")] * 18 + [("B", "A")] * 2),
        count(three[2].stage, "base", [("A", "A")] * 20),
    )
    models = tuple((row.stage, f"runs/stages/{row.id}") for row in three)
    verdicts = Verdicts("judge-7b", PROMPT, rates)
    return Story(models, "base", table, generations, verdicts)


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    checker = _Checker()
    checker.feed(html(story(tmp_path)))
    assert (checker.open, checker.suspect) == ([], [])
    text = " ".join(" ".join(checker.text).split())
    for part in ("50.0", "36.0", "-14.0 (", "90.0", "judge prefers", "sft says an answer"):
        assert part in text
    assert "sft has no chat template and continues the prompt as plain text" in text
    assert "2 of 5 answers of base are cut at 64 tokens" in text
    assert "sft is preferred to base in 90.0 % of 20 prompts" in text
    assert text.count("Which answer is better? Reply with one letter") == 1
    assert "60 right to wrong" in text


def test_model_output_stays_text(tmp_path: Path) -> None:
    nasty = story(tmp_path, NASTY)
    page = html(nasty)
    checker = _Checker()
    checker.feed(page)
    assert (checker.open, checker.suspect) == ([], [])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") >= 15
    page.encode()
    told = markdown(nasty)
    assert "<script" not in told
    told.encode()
    table_rows = [line for line in told.splitlines() if line.startswith("| ")]
    unescaped = {len(re.findall(r"(?<!\\)\|", line)) for line in table_rows}
    assert unescaped == {8, 5}
    shown = terminal(nasty, 80, False)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    shown.encode()


def test_every_form_has_the_same_numbers(tmp_path: Path) -> None:
    told = story(tmp_path)
    tree = json.loads(json.dumps(content(told), allow_nan=False))
    sft = tree["models"][1]
    change = sft["changes"]["facts"]
    assert (tree["reference"], tree["num_tests"]) == ("base", 4)
    assert change["delta"] == pytest.approx(-0.14)
    assert (change["verdict"], sft["changes"]["prose"]["word"]) == ("regressed", "improved")
    assert tree["models"][0]["changes"] == {}
    assert tree["judge"]["win_rates"][0]["rate"] == 0.9
    assert tree["answers"]["prompts"][0]["answers"]["sft"] == "sft says an answer"
    low, high = (f"{100 * change[end]:+.1f}" for end in ("low", "high"))
    assert f"-14.0 [{low}, {high}] v" in terminal(told, 100, False)
    assert f"-14.0 ({low} to {high}) \u25bc regressed" in markdown(told)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_terminal_keeps_to_its_width(tmp_path: Path, width: int) -> None:
    lines = terminal(story(tmp_path), width, False).splitlines()
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if re.search(r"^ {5,}1 base", line)]
    assert len(heads) == 1
    assert ("3 a_model" in heads[0]) == (width >= 120)
    assert sum(line.startswith("facts") for line in lines) == {60: 3, 80: 2}.get(width, 1)


def test_a_terminal_without_colour_gets_ascii(tmp_path: Path) -> None:
    told = story(tmp_path)
    assert terminal(told, 80, False).isascii()
    assert "\x1b[1;33m" in terminal(told, 80, True)
    assert "\u25bc" in terminal(told, 80, True)


def test_one_part_alone_is_a_story_too(tmp_path: Path) -> None:
    whole = story(tmp_path)
    for part in (
        Story(whole.models, "base", whole.table),
        Story(whole.models, "base", None, whole.generations),
        Story(whole.models, "base", None, whole.generations, whole.verdicts),
    ):
        assert html(part).count("<html") == 1
        assert markdown(part).startswith("# sft, a\\_model") or markdown(part).startswith("# sft")
        assert terminal(part, 80, False)
        json.dumps(content(part))
