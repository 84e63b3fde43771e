"""Which checkpoint a gate takes: within every margin on the items for choosing, then the most new skill."""

from dataclasses import replace

import pytest

from cpt.actions import Action
from eval.choice import Chooser
from eval.matrix import Item, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.split import Split, only


def score(probe: str, dev: int, test: int, of: int = 100, group: str = "knowledge") -> Score:
    """`dev` of the first 100 items are right and `test` of the others."""
    splits: tuple[tuple[Split, int], ...] = (("dev", dev), ("test", test))
    items = tuple(
        Item(f"{split}{i}", float(i < right), 1.0, "", "", split=split)
        for split, right in splits
        for i in range(of)
    )
    return Score(
        probe, "acc", group, True, None, weighted_mean(items), ratio_stderr(items), items, "f"
    )


def row(stage: str, facts: tuple[int, int], skill: tuple[int, int]) -> Row:
    scores = {"facts": score("facts", *facts), "skill": score("skill", *skill, group="domain")}
    return Row(stage, stage, scores)


BASE, PARENT = row("base", (50, 50), (20, 20)), row("parent", (50, 50), (30, 30))
MARGINS = {"facts": 0.04, "skill": 0.1}
ACTIONS: dict[str, Action] = {"facts": "repair", "skill": "warn"}


def chooser(parent: Row = PARENT, skill: tuple[str, ...] = ("skill",)) -> Chooser:
    return Chooser(BASE, parent, MARGINS, ACTIONS, skill)


def test_a_row_is_restricted_to_a_split() -> None:
    dev = only(row("a", (60, 20), (1, 1)), "dev")
    assert dev.scores["facts"].value == 0.6
    assert {item.split for item in dev.scores["facts"].items} == {"dev"}
    # s / sqrt(n) of 60 ones and 40 zeros.
    assert dev.scores["facts"].stderr == pytest.approx((0.24 / 99) ** 0.5)
    assert only(dev, "dev") == dev


def test_items_without_splits_serve_for_both() -> None:
    plain = row("a", (60, 20), (1, 1))
    for name, own in plain.scores.items():
        items = tuple(replace(item, split="") for item in own.items)
        plain.scores[name] = replace(own, items=items)
    assert only(plain, "dev") == only(plain, "test") == plain
    assert not Chooser(plain, plain, {}, {}, ()).is_split
    assert chooser().is_split


def test_the_point_estimate_on_dev_items_decides() -> None:
    """A fall of 5 in 100 is no certain one, and still beyond a margin of 4."""
    look = chooser().look(row("a", (45, 90), (60, 0)))
    assert not look.is_within
    assert look.beyond == ("facts fell by 5.0 points (+-2.2)",)
    assert look.gains["facts"] == pytest.approx(-0.05)
    assert chooser().look(row("a", (46, 0), (60, 0))).is_within


def test_new_skill_is_the_gain_over_the_parent_in_margins() -> None:
    assert chooser().look(row("a", (50, 50), (60, 99))).skill == pytest.approx(3.0)
    assert chooser(skill=()).look(row("a", (50, 50), (60, 99))).skill == 0


def test_probes_that_only_warn_hold_nothing_back() -> None:
    assert chooser().look(row("a", (50, 50), (0, 0))).is_within


def test_where_the_parent_has_fallen_further_it_is_the_measure() -> None:
    worse = chooser(parent=row("parent", (43, 43), (30, 30)))
    assert worse.look(row("a", (43, 0), (30, 0))).is_within
    assert not worse.look(row("a", (42, 99), (30, 0))).is_within


def test_probes_without_items_for_choosing_are_named() -> None:
    mixed = row("a", (50, 50), (20, 20))
    own = mixed.scores["skill"]
    mixed.scores["skill"] = replace(own, items=tuple(replace(i, split="") for i in own.items))
    assert Chooser(mixed, mixed, MARGINS, ACTIONS, ("skill",)).without_dev == ["skill"]
    assert chooser().without_dev == []
