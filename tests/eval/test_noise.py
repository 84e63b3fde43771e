"""Two measurements of one checkpoint."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cpt.errors import ProbeError
from eval.matrix import Item, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.noise import Noise, is_silent, noise_floor, read_noise, second_of, sentence
from tests.eval.report.conftest import SUITE_HASH


def row(fingerprint: str = "f", **probes: list[float]) -> Row:
    scores = {}
    for probe, values in probes.items():
        items = tuple(Item(str(i), v, 1.0, "", "") for i, v in enumerate(values))
        scores[probe] = Score(
            probe, "acc", "knowledge", True, None, weighted_mean(items), ratio_stderr(items), items,
            fingerprint,
        )  # fmt: skip
    return Row("base", "base-0", scores)


def test_equal_measurements_are_silent() -> None:
    once = row(facts=[1.0, 0.0, 1.0], text=[0.3, 0.4])
    found = noise_floor(once, once)
    assert found["facts"] == Noise("facts", 3, 0, 0.0, 0.0, 0.0)
    assert list(found) == ["facts", "text"]
    assert is_silent(found)


def test_differing_items_are_counted() -> None:
    found = noise_floor(row(facts=[1.0, 0.0, 1.0, 0.0]), row(facts=[1.0, 1.0, 0.0, 0.0]))["facts"]
    assert (found.num_differing, found.largest, found.shift) == (2, 1.0, 0.0)
    assert found.stderr == pytest.approx(math.sqrt(4 / 3 * 2 * (1 / 4) ** 2))
    assert not is_silent({"facts": found})


def test_a_shift_of_all_items_together_is_noise_though_none_varies() -> None:
    found = noise_floor(row(text=[0.3, 0.4, 0.5]), row(text=[0.35, 0.45, 0.55]))["text"]
    assert found.shift == pytest.approx(0.05)
    assert found.stderr == pytest.approx(0.05)
    assert found.largest == pytest.approx(0.05)


def test_the_floor_is_of_the_items_that_are_reported() -> None:
    """A quarter of the items decides: one of them that differs moves their score by four times as much."""

    def split(values: list[float]) -> Row:
        whole = row(facts=values)
        items = tuple(
            replace(item, split="test" if n % 4 == 0 else "dev")
            for n, item in enumerate(whole.scores["facts"].items)
        )
        return replace(whole, scores={"facts": replace(whole.scores["facts"], items=items)})

    first, second = [1.0] * 40, [0.0] + [1.0] * 39
    found = noise_floor(split(first), split(second))["facts"]
    assert (found.num_items, found.num_differing) == (40, 1)
    assert found.shift == pytest.approx(-0.1)
    assert found.stderr == pytest.approx(0.1)
    second = [1.0, 0.0] + [1.0] * 38  # a dev item
    found = noise_floor(split(first), split(second))["facts"]
    assert (found.num_differing, found.shift, found.stderr) == (1, 0, 0)


def test_measurements_of_different_kinds_are_refused() -> None:
    with pytest.raises(ProbeError, match="measured differently"):
        noise_floor(row(facts=[1.0]), row("g", facts=[1.0]))


def test_the_second_result_lies_beside_the_first(tmp_path: Path) -> None:
    from tests.eval.report.conftest import make_chain

    fake = make_chain(tmp_path, probed=1)
    (first,) = fake.stages.glob("base-*/probes/*.json")
    assert read_noise(first, SUITE_HASH) == {}
    second = second_of(first)
    assert second.parent == first.parent
    shutil.copy(first, second)
    same = read_noise(first, SUITE_HASH)
    assert is_silent(same)
    many = sum(floor.num_items for floor in same.values())
    assert sentence(same) == (
        f"Measured twice, the base model gave the same results for all {many:,} items."
    )
    tree = json.loads(second.read_text())
    item = tree["probes"]["python_qa"]["items"][0]
    item["value"] = 1 - item["value"]
    second.write_text(json.dumps(tree))
    assert "gave other results for 1 of 160 in python_qa items" in sentence(
        read_noise(first, SUITE_HASH)
    )


def test_a_report_takes_it_in(tmp_path: Path) -> None:
    """One of 160 answers that differs between two measurements widens every later error."""
    from eval.report.content import content
    from eval.report.gather import gather
    from eval.report.markdown import markdown
    from eval.report.page import html
    from tests.eval.report.conftest import make_chain

    fake = make_chain(tmp_path)
    before = gather(fake.chain, fake.stages).stages[4].from_base[0]
    (first,) = fake.stages.glob("base-*/probes/*.json")
    tree = json.loads(first.read_text())
    item = tree["probes"]["python_qa"]["items"][0]
    item["value"] = 1 - item["value"]
    second_of(first).write_text(json.dumps(tree))
    story = gather(fake.chain, fake.stages)
    after = story.stages[4].from_base[0]
    assert (after.probe, after.delta) == (before.probe, before.delta) == ("python_qa", after.delta)
    assert after.stderr > before.stderr
    for text in (html(story), markdown(story)):
        assert "Measured twice, the base model" in text
    assert content(story)["noise"]["python_qa"]["num_differing"] == 1
