"""The metrics of continual learning in a report are those of `eval.continual`, for the rows that count."""

import json
from typing import Any

import pytest

from eval.continual import continual
from eval.report import kept
from eval.report.gather import gather
from eval.report.markdown import markdown
from eval.report.page import html
from eval.report.text import number


def test_the_tables_have_the_metrics_of_the_matrix(fake_chain: Any) -> None:
    fake = fake_chain()
    story = gather(fake.chain, fake.stages)
    found = continual(story.matrix)
    assert story.continual == found
    told = kept.rows(found)
    shares = next(one for one in found if one.unit == "share")
    line = next(line for line in told if line[0] == f"worst drop, {shares.worst_probe}")
    assert line[1] == number(shares.worst.value)
    assert [line[0] for line in told if line[0].startswith("tax from")][:4] == [
        "tax from base to pretrain",
        "tax from pretrain to sft",
        "tax from sft to dpo",
        "tax from dpo to grpo",
    ]
    for text in (html(story), markdown(story)):
        assert "What the chain kept" in text
        assert "alignment tax in all" in text


def test_what_is_not_there_has_its_reason(fake_chain: Any) -> None:
    fake = fake_chain()
    told = kept.reasons(gather(fake.chain, fake.stages).continual)
    assert told.startswith("No average, incremental average, backward transfer")
    assert "no probe of the suite names the stage that teaches it (`owner`)" in told


def test_a_base_row_alone_has_none(fake_chain: Any) -> None:
    fake = fake_chain(probed=1)
    assert "What the chain kept" not in html(gather(fake.chain, fake.stages))


def test_what_a_gate_replaced_does_not_count(fake_chain: Any) -> None:
    """The chain went on from the repaired checkpoint, so the damaged one is no row of it."""
    fake = fake_chain()
    chain = json.loads((fake.chain / "chain.json").read_text())
    chain["nodes"][3] |= {"kind": "repair", "parents": ["sft", "pretrain"], "stands_for": "sft"}
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    story = gather(fake.chain, fake.stages)
    hops = story.continual[0].hops
    assert [(hop.before, hop.after) for hop in hops] == [
        ("base", "pretrain"),
        ("pretrain", "sft"),
        ("sft", "grpo"),
    ]
    repaired = story.stages[3].row
    assert repaired is not None
    assert [row.stage for row in story.standing] == ["base", "pretrain", "sft", "grpo"]
    assert story.standing[2].scores == repaired.scores


def test_a_skill_is_still_owned_after_a_repair_of_the_stage_that_taught_it(fake_chain: Any) -> None:
    fake = fake_chain()
    chain = json.loads((fake.chain / "chain.json").read_text())
    chain["suite"]["probes"]["python_qa"]["owner"] = "sft"
    levels = {}
    for made in (False, True):
        if made:
            chain["nodes"][3] |= {"kind": "repair", "name": "sft.repair", "stands_for": "sft"}
            chain["nodes"][3]["parents"] = ["sft", "pretrain"]
            chain["nodes"][4]["parents"] = ["sft.repair"]
        (fake.chain / "chain.json").write_text(json.dumps(chain))
        story = gather(fake.chain, fake.stages)
        shares = next(one for one in story.continual if one.unit == "share")
        assert shares.owned == ("python_qa",)
        assert shares.absent.keys() <= {"forward_transfer"}
        assert shares.backward_transfer is not None
        levels[made] = shares.backward_transfer.value
        scores = [row.scores["python_qa"].value for row in story.matrix.rows]
    assert levels[False] == pytest.approx(scores[4] - scores[2])
    assert levels[True] == pytest.approx(scores[4] - scores[3])


def test_a_branch_is_no_hop(fake_chain: Any) -> None:
    fake = fake_chain()
    chain = json.loads((fake.chain / "chain.json").read_text())
    chain["nodes"][3]["parents"] = ["base"]
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    story = gather(fake.chain, fake.stages)
    first = story.continual[0]
    assert ("base", "dpo") in [(hop.before, hop.after) for hop in first.hops]
    assert first.rows == ("base", "dpo", "grpo")


def test_what_it_can_and_will_are_groups_of_their_own(fake_chain: Any) -> None:
    fake = fake_chain()
    chain = json.loads((fake.chain / "chain.json").read_text())
    for name, probe in chain["suite"]["probes"].items():
        probe["facet"] = {"output_format": "how", "world_facts": "can"}.get(name)
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    story = gather(fake.chain, fake.stages)
    found = {one.group: one for one in story.groups}
    assert {"CAN (CapTrack)", "HOW (CapTrack)"} <= found.keys()
    assert "WILL (CapTrack)" not in found
    assert found["CAN (CapTrack)"].relative == found["knowledge"].relative  # one probe, world_facts


def test_every_probe_says_what_it_could_find(fake_chain: Any) -> None:
    fake = fake_chain()
    story = gather(fake.chain, fake.stages)
    many = sum(len(stage.from_base) for stage in story.stages)
    assert html(story).count("(detects ") == many
    assert markdown(story).count("| detects |") == 4
