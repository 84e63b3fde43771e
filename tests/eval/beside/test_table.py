"""Several models against one: differences, and marks that are corrected over the whole comparison."""

from dataclasses import replace

import pytest

from cpt.errors import ProbeError
from eval.beside.page import html
from eval.beside.sentences import sentence
from eval.beside.story import Story, tally
from eval.beside.table import compare_rows
from eval.beside.texts import content, markdown
from eval.compare import changes
from eval.matrix import Item, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.template import PART, any_template
from tests.probe_results import flip, right


def score(probe: str, values: list[float], margin: float | None = None) -> Score:
    items = tuple(Item(f"i{n}", value, 1.0, "", "") for n, value in enumerate(values))
    mean, stderr = weighted_mean(items), ratio_stderr(items)
    return Score(probe, "acc", "knowledge", True, margin, mean, stderr, items, "f")


def row(name: str, **probes: list[float]) -> Row:
    return Row(name, f"{name}-1", {probe: score(probe, v) for probe, v in probes.items()})


FACTS = right(0.5)
BASE = row("base", facts=FACTS, sums=FACTS)


def test_holm_runs_over_all_models() -> None:
    """A fall that one comparison of two probes would mark is one of eight among four models."""
    fallen = row("fallen", facts=flip(FACTS, 29, 8), sums=FACTS)
    same = [row(f"same{n}", facts=FACTS, sums=FACTS) for n in range(3)]
    alone = compare_rows("s", "1", [BASE, fallen], "base", 0.02)
    among = compare_rows("s", "1", [BASE, fallen, *same], "base", 0.02)
    (change,) = (c for c in changes(BASE, fallen, 0.02) if c.probe == "facts")
    assert (alone.num_tests, among.num_tests) == (2, 8)
    for table in (alone, among):
        found = table.columns[1].changes["facts"]
        assert found.p_value == change.p_value
        assert found.p_holm == pytest.approx(table.num_tests * change.p_value, abs=1e-15)
    assert 0.05 / 8 < change.p_value < 0.05 / 2
    assert alone.columns[1].changes["facts"].verdict == "regressed"
    assert among.columns[1].changes["facts"].verdict == "undecided"


def test_no_more_is_called_improved_by_chance_among_many_models() -> None:
    """Seven rises of seven changes are certain in one comparison, not in one of eight."""
    risen = row("risen", facts=flip(FACTS, 0, 7), sums=FACTS)
    same = [row(f"same{n}", facts=FACTS, sums=FACTS) for n in range(3)]
    alone = compare_rows("s", "1", [BASE, risen], "base", 0.02)
    among = compare_rows("s", "1", [BASE, risen, *same], "base", 0.02)
    for table, improved in ((alone, True), (among, False)):
        found = table.columns[1].changes["facts"]
        assert (found.p_rise, found.improved) == (1 / 128, improved)


def test_another_chat_template_is_told_everywhere() -> None:
    """Where a person has allowed it, what changed is not the weights alone."""
    asked = {"old": row("old", facts=FACTS), "new": row("new", facts=FACTS)}
    rows = [
        replace(row, scores={"facts": replace(row.scores["facts"], parts={PART: name})})
        for name, row in asked.items()
    ]
    table = compare_rows("s", "1", any_template(rows), "new", 0.02)
    story = Story((("old", "a"), ("new", "b")), "new", table)
    told = "old: asked in another chat template than new;"
    assert table.template_note.startswith(told)
    assert content(story)["template_note"] == table.template_note
    assert told in html(story)
    assert told in markdown(story)
    same = Story(story.models, "new", compare_rows("s", "1", [*asked.values()], "new", 0.02))
    assert "template" not in html(same).partition("</style>")[2]
    assert content(same)["template_note"] == ""


def test_the_reference_may_stand_anywhere() -> None:
    better = row("better", facts=flip(FACTS, 0, 40), sums=FACTS)
    table = compare_rows("s", "1", [better, BASE], "base", 0.02)
    assert [column.label for column in table.columns] == ["better", "base"]
    assert table.columns[1].changes == {}
    found = table.columns[0].changes["facts"]
    assert found.delta == pytest.approx(0.1)
    assert found.improved
    assert found.low < 0.1 < found.high
    assert tally(table) == ["better: 1 improved (facts), 1 held (sums)"]
    assert table.detectable("facts") == found.detectable


def test_models_need_different_names_and_equal_fingerprints() -> None:
    with pytest.raises(ProbeError, match="need different names"):
        compare_rows("s", "1", [BASE, BASE], "base", 0.02)
    other = replace(BASE.scores["facts"], fingerprint="g")
    changed = replace(BASE, stage="sft", scores={**BASE.scores, "facts": other})
    with pytest.raises(ProbeError, match="facts was measured differently"):
        compare_rows("s", "1", [BASE, changed], "base", 0.02)


def test_sentences_say_the_verdict() -> None:
    rows = [
        BASE,
        row("up", facts=flip(FACTS, 0, 40), sums=FACTS),
        row("down", facts=flip(FACTS, 60, 0), sums=flip(FACTS, 20, 20)),
    ]
    table = compare_rows("s", "1", rows, "base", 0.02)
    told = {
        (column.label, probe): sentence(change, column.row.scores[probe], table.num_tests)
        for column in table.columns
        for probe, change in column.changes.items()
    }
    assert told["up", "facts"].endswith("(+-1.5), better, also after Holm over 4 differences")
    assert told["down", "facts"].startswith("facts fell by 15.0 points (+-1.8), more than its")
    assert "after Holm over 4 differences" in told["down", "facts"]
    assert "400 items cannot tell whether it stays" in told["down", "sums"]
    assert told["up", "sums"].endswith("held within its margin of 2.0")
