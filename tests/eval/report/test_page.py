"""The HTML page: well-formed, self-contained, escaped, and with the right numbers."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from eval.report.gather import gather
from eval.report.page import html
from eval.report.write import write_report

NASTY = "<script>alert('x')</script> \"&amp; </td></svg></style> \x1b[31m \ud800 \u202e |`*"


class _Checker(HTMLParser):
    """Every element is closed in order; scripts, handlers and outside resources are found."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.suspect: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br", "wbr", "hr"}:
            self.open.append(tag)
        if tag in {"script", "link", "img", "iframe", "object", "embed"}:
            self.suspect.append(tag)
        self.suspect += [n for n, _ in attrs if n.startswith("on") or n in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.suspect == []
    assert "url(" not in page
    assert "@import" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
    return checker


def cells(page: str, table: str) -> list[list[str]]:
    start = page.index("<tbody>", page.index(f'<table class="{table}">'))
    rows = re.findall(r"<tr>(.*?)</tr>", page[start : page.index("</tbody>", start)])
    return [
        [re.sub(r"<[^>]+>", " ", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in rows
    ]


def test_text_from_models_data_and_recipes_is_escaped(fake_chain: Any) -> None:
    fake = fake_chain(answer=NASTY)
    chain = json.loads((fake.chain / "chain.json").read_text())
    chain["recipe"]["name"] = chain["command"] = f"quick {NASTY}"
    chain["recipe"]["stages"]["sft"]["system"] = NASTY
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    story = write_report(fake.chain, fake.stages)
    page = (fake.chain / "report.html").read_text(encoding="utf-8")
    assert story.command == f"quick {NASTY}"
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert any("<script>alert('x')</script>" in text for text in check(page).text)


def test_the_matrix_holds_every_score_with_its_error_and_mark(fake_chain: Any) -> None:
    fake = fake_chain(naive=True)
    story: Any = gather(fake.chain, fake.stages)
    rows = cells(html(story), "matrix")
    assert [row[0].strip() for row in rows] == ["base", "pretrain", "sft", "dpo", "grpo"]
    for row, stage in zip(rows, story.stages, strict=True):
        found = {change.probe: change for change in stage.from_base}
        for cell, probe in zip(row[1:], story.probes, strict=True):
            score = stage.row.scores[probe.name]
            assert f"{score.value * probe.scale:.{probe.places}f}" in cell
            assert f"{score.stderr * probe.scale:.{probe.places}f}" in cell
            change = found.get(probe.name)
            assert ("\u25bc" in cell) == (change is not None and change.verdict == "regressed")


def test_the_change_table_of_a_stage_holds_raw_differences(fake_chain: Any) -> None:
    fake = fake_chain(probed=2)
    story: Any = gather(fake.chain, fake.stages)
    row = cells(html(story), "changes")[1]
    change = next(c for c in story.stages[1].from_base if c.probe == "python_docs")
    assert row[0].startswith("python_ docs") or "docs" in row[0]
    assert change.delta < 0 < change.gain
    assert f"{change.delta:.3f}" in row[3]
    assert f"{change.stderr:.3f}" in row[3]


@pytest.mark.parametrize(
    "settings",
    [
        {"probed": 0},
        {"probed": 1},
        {"probed": 1, "trained": 2},
        {"probed": 2, "running": True},
        {"probed": 3, "probes": ()},
        {"probed": 0, "probes": ()},
        {"probed": 5, "probes": ("general_text",)},
    ],
)
def test_any_partial_chain_renders(fake_chain: Any, settings: Any) -> None:
    fake = fake_chain(**settings)
    page = html(gather(fake.chain, fake.stages))
    text = " ".join(check(page).text)
    assert "quickstart" in text
    assert ("in training" in text) == bool(settings.get("running"))


def test_curves_show_losses_hooks_and_rewards(fake_chain: Any) -> None:
    fake = fake_chain()
    page = html(gather(fake.chain, fake.stages))
    for title in ("loss", "kl (hook)", "reward", "KL to the reference", "implicit rewards"):
        assert f'class="title" text-anchor="start">{title}</text>' in page


def test_a_diverged_log_says_so(fake_chain: Any) -> None:
    fake = fake_chain(probed=2)
    log = next(fake.stages.glob("pretrain-*/metrics.jsonl"))
    log.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity, "grad_norm": 1.0}\n')
    page = html(gather(fake.chain, fake.stages))
    check(page)
    assert "no finite value was logged" in page
    assert "NaN" not in page


def test_the_comparison_tells_both_ends_and_the_paired_difference(fake_chain: Any) -> None:
    ours, other = fake_chain(), fake_chain(name="quickstart-naive", naive=True)
    story: Any = gather(ours.chain, ours.stages, other.chain)
    page = html(story)
    text = " ".join(check(page).text)
    assert "Against quickstart-naive" in text
    rows = {row[0].split("  ")[0].replace("_ ", "_"): row for row in cells(page, "changes")}
    change = next(c for c in story.comparison.changes if c.probe == "world_facts")
    row = next(row for name, row in rows.items() if name.startswith("world_facts"))
    for score in (story.comparison.other_row, story.comparison.row):
        assert f"{100 * score.scores['world_facts'].value:.1f}" in " ".join(row)
    assert f"+{100 * change.delta:.1f}" in row[4]
    assert "better" in row[-1]


def test_equal_chains_give_equal_bytes_and_a_page_of_modest_size(fake_chain: Any) -> None:
    fake = fake_chain()
    names = ("report.html", "report.md", "matrix.csv")
    write_report(fake.chain, fake.stages)
    first = [(fake.chain / name).read_bytes() for name in names]
    write_report(fake.chain, fake.stages)
    assert first == [(fake.chain / name).read_bytes() for name in names]
    assert 40_000 < len(first[0]) < 400_000
    assert not list(fake.chain.glob(".*"))


def test_matrix_csv_has_a_line_per_probed_stage(fake_chain: Any) -> None:
    fake = fake_chain(probed=3)
    write_report(fake.chain, fake.stages)
    lines = (fake.chain / "matrix.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["stage", "base", "pretrain", "sft"]


def test_the_lineage_draws_every_edge_of_the_graph(fake_chain: Any) -> None:
    fake = fake_chain(probed=2)
    chain = json.loads((fake.chain / "chain.json").read_text())
    chain["nodes"][4]["parents"] = ["sft", "dpo"]
    chain["nodes"][4]["reference"] = "base"
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    page = html(gather(fake.chain, fake.stages))
    check(page)
    assert page.count('class="edge from"') == 5
    assert page.count('class="edge reference"') == 2
