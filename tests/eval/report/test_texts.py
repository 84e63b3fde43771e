"""The terminal, Markdown and summary: right numbers, plain ASCII, nothing breaks out of a table."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

from eval.report.content import content
from eval.report.flips import flips
from eval.report.gather import gather
from eval.report.markdown import code, escape, markdown
from eval.report.page import html
from eval.report.terminal import terminal
from eval.report.words import sentences
from eval.template import hashed


def test_terminal_without_colour_is_ascii_and_fits(fake_chain: Any) -> None:
    fake = fake_chain()
    story = gather(fake.chain, fake.stages)
    for width in (72, 80, 120):
        text = terminal(story, None, width, colour=False)
        assert text.isascii()
        table = text.split("\nagainst base")[0].splitlines()
        assert max(len(line) for line in table) <= width
        assert not any(line.endswith(" ") for line in text.splitlines())


def test_terminal_tells_a_stage_with_changes_errors_and_verdicts(fake_chain: Any) -> None:
    fake = fake_chain(naive=True)
    story = gather(fake.chain, fake.stages)
    text = terminal(story, "sft", 100, colour=False)
    assert "sft after pretrain" in text
    assert "gate: warn" in text
    change = next(c for c in story.stages[2].from_base if c.probe == "arithmetic")
    line = next(line for line in text.splitlines() if line.startswith("arithmetic"))
    assert f"{100 * change.delta:.1f} +- {100 * change.stderr:.1f}" in line
    assert "regressed" in line
    assert "from pretrain" in text
    assert "lower is better: python_docs, general_text" in text
    words = [word for word in re.findall(r"regressed|improved|held|undecided", text)][:8]
    assert words[0] == "regressed"


def test_terminal_colours_only_when_asked(fake_chain: Any) -> None:
    fake = fake_chain()
    story = gather(fake.chain, fake.stages)
    assert "\x1b[" in terminal(story, None, 100, colour=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal(story, None, 100, colour=True))
    assert len(plain.splitlines()) == len(terminal(story, None, 100, colour=False).splitlines())


def test_terminal_and_markdown_work_on_partial_chains(fake_chain: Any) -> None:
    for settings in ({"probed": 0}, {"probed": 1}, {"probed": 0, "probes": ()}, {"probes": ()}):
        fake = fake_chain(name=f"part-{len(str(settings))}", **settings)
        story = gather(fake.chain, fake.stages)
        assert "part-" in terminal(story, None, 80, colour=False)
        assert "## Lineage" in markdown(story)
        assert sentences(story)


def test_markdown_tables_are_whole_whatever_the_text(fake_chain: Any) -> None:
    fake = fake_chain(answer="a | b `c` <script> \n| d [x](y)")
    story = replace(gather(fake.chain, fake.stages), name="quick | `start`\n# <b>")
    text = markdown(story)
    assert "<script>" not in text
    assert text.startswith("# quick \\| \\`start\\` \\# &lt;b&gt;\n")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_markdown_has_scores_verdicts_lineage_and_times(fake_chain: Any) -> None:
    ours, other = fake_chain(), fake_chain(name="quickstart-naive", naive=True)
    story: Any = gather(ours.chain, ours.stages, other.chain)
    text = markdown(story)
    score = story.stages[4].row.scores["world_facts"]
    assert f"{100 * score.value:.1f} \u00b1 {100 * score.stderr:.1f}" in text
    assert "Gate: **pass**" in text
    assert "## Against quickstart-naive" in text
    assert f"`{story.stages[2].id}`" in text
    assert "kl (beta 0.05, of base)" in text
    assert "2 min 55 s" in text
    assert "`cpt run recipes/quickstart/chain.yaml`" in text


def test_escapes_of_markdown() -> None:
    assert escape("a|b\nc*d_e _f_") == "a\\|b c\\*d_e \\_f\\_"
    assert escape("@team a@b.c $x$") == "@&#8203;team a@b.c <span>$</span>x<span>$</span>"
    assert code("plain-1") == "`plain-1`"
    assert code("a`b|c") == "a\\`b\\|c"


def test_the_summary_names_what_rose_and_what_fell(fake_chain: Any) -> None:
    fake = fake_chain(naive=True)
    story = gather(fake.chain, fake.stages)
    text = " ".join(sentences(story))
    change = next(c for c in story.stages[4].from_base if c.probe == "python_qa")
    assert f"python_qa improved from 26.9 to {26.875 + 100 * change.delta:.1f} %" in text
    assert "general probes, 4 regressed" in text
    assert "The gate warns; on the way it found regressions after pretrain" in text


def test_the_summary_of_a_base_row_promises_nothing(fake_chain: Any) -> None:
    fake = fake_chain(probed=1)
    assert "Only the base model has been probed" in sentences(gather(fake.chain, fake.stages))[0]


def test_flips_are_counted_by_item_and_dealt_over_probes(fake_chain: Any) -> None:
    fake = fake_chain(probed=2)
    rows = gather(fake.chain, fake.stages).matrix.rows
    found = flips(rows[0], rows[1])
    old, new = (row.scores["python_qa"] for row in rows)
    later = {item.id: item.value for item in new.items}
    won = [item.id for item in old.items if item.value == 0 and later[item.id] == 1]
    assert sum(flip.probe == "python_qa" for flip in found.won) == len(won)
    assert len({flip.probe for flip in found.won[:4]}) > 1
    assert not any(flip.probe == "python_docs" for flip in found.won + found.lost)


def test_reports_import_no_heavy_library() -> None:
    heavy = ["torch", "trl", "transformers", "datasets", "lm_eval", "numpy", "pydantic", "pandas"]
    program = (
        "import sys, eval.report.write, eval.report.terminal; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_change_of_the_chat_template_is_said(fake_chain: Any) -> None:
    fake = fake_chain()
    folders = sorted(fake.stages.glob("*/manifest.json"))
    inputs = {"model": {"add_tokens": [], "chat_template": "new"}}
    for file in folders:
        manifest = json.loads(file.read_text())
        if manifest["kind"] == "sft":
            file.write_text(json.dumps(manifest | {"inputs": inputs}))
        template = hashed("new" if manifest["kind"] in ("sft", "dpo", "grpo") else "old")
        for result in file.parent.glob("probes/*.json"):
            tree = json.loads(result.read_text())
            for cell in tree["probes"].values():
                cell["parts"] = {"template": template}
            result.write_text(json.dumps(tree))
    story = gather(fake.chain, fake.stages)
    assert "asked in another chat template than base" in markdown(story)
    assert "asked in another chat template than base" in html(story)
    assert content(story)["template_note"].startswith("sft, dpo, grpo: asked in another chat")
    told = " ".join(terminal(story, None, 60, False).split())
    assert "sft, dpo, grpo: asked in another chat template than base;" in told
    fake = fake_chain()
    assert "chat template" not in markdown(gather(fake.chain, fake.stages))
