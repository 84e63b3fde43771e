"""Metrics of a probe matrix: owners, units, taxes, intervals."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cpt.errors import ProbeError
from eval.by_group import by_group
from eval.continual import Continual, continual
from eval.matrix import Item, Matrix, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.resample import Estimate, Resamples

STAGES = ("base", "first", "second", "third")
# of methods card A16: base, then rows after each stage
TAUGHT = {
    "a": ("first", [0.05, 0.90, 0.95, 0.60]),
    "b": ("second", [0.10, 0.20, 0.80, 0.85]),
    "c": ("third", [0.10, 0.10, 0.30, 0.90]),
}


def shares(level: float, num_items: int = 20) -> list[float]:
    right = round(level * num_items)
    return [1.0] * right + [0.0] * (num_items - right)


def score(
    probe: str,
    values: Sequence[float],
    owner: str | None = None,
    metric: str = "acc",
    group: str = "domain",
    higher: bool = True,
) -> Score:
    items = tuple(Item(f"{probe}{i}", v, 1.0, "", "") for i, v in enumerate(values))
    return Score(
        probe, metric, group, higher, None, weighted_mean(items), ratio_stderr(items), items, "f",
        owner=owner,
    )  # fmt: skip


def matrix(columns: Sequence[Sequence[Score]]) -> Matrix:
    rows = tuple(
        Row(stage, f"{stage}-0", {column[i].probe: column[i] for column in columns})
        for i, stage in enumerate(STAGES[: len(columns[0])])
    )
    return Matrix("small", "5d2e91ab", rows, tuple(column[0].probe for column in columns))


def taught() -> list[list[Score]]:
    return [
        [score(probe, shares(level), owner) for level in levels]
        for probe, (owner, levels) in TAUGHT.items()
    ]


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


def test_the_matrix_of_the_card() -> None:
    (found,) = continual(matrix(taught()))
    assert (found.unit, found.owned, found.absent) == ("share", ("a", "b", "c"), {})
    assert value(found.average) == pytest.approx(0.78333, abs=1e-5)
    assert value(found.backward_transfer) == pytest.approx(-0.125)
    assert value(found.forward_transfer) == pytest.approx(0.15)
    assert value(found.forgetting) == pytest.approx(0.15)
    assert value(found.retention) == pytest.approx(0.8646, abs=1e-4)
    assert value(found.worst) == pytest.approx(0.35)
    assert found.worst_probe == "a"
    assert (found.hops, found.total_tax) == ((), None)


def test_without_owners_there_is_no_transfer_and_it_says_why() -> None:
    levels = {"facts": [0.8, 0.7, 0.75, 0.5], "sums": [0.4, 0.4, 0.2, 0.3]}
    columns = [
        [score(probe, shares(level), group="knowledge") for level in row]
        for probe, row in levels.items()
    ]
    (found,) = continual(matrix(columns))
    assert found.backward_transfer is found.average is found.retention is None
    assert set(found.absent) == {
        "average", "incremental_average", "backward_transfer", "forward_transfer", "forgetting",
        "retention",
    }  # fmt: skip
    assert "names the stage that teaches it" in found.absent["backward_transfer"]
    assert value(found.overall) == pytest.approx(0.4)
    assert [(hop.before, hop.after) for hop in found.hops] == [
        ("base", "first"), ("first", "second"), ("second", "third"),
    ]  # fmt: skip
    assert [value(hop.tax) for hop in found.hops] == pytest.approx([0.05, 0.075, 0.075])
    assert value(found.total_tax) == pytest.approx(0.2)
    assert value(found.worst) == pytest.approx(0.3)


def test_what_a_stage_teaches_pays_no_tax() -> None:
    general = [score("facts", shares(level), group="knowledge") for level in (0.8, 0.8, 0.8, 0.7)]
    (found,) = continual(matrix([*taught(), general]))
    assert value(found.total_tax) == pytest.approx(0.1)
    assert found.owned == ("a", "b", "c")


def test_an_owner_that_has_not_trained_yet_is_no_owner_yet() -> None:
    columns = [column[:3] for column in taught()]
    (found,) = continual(matrix(columns))
    assert found.owned == ("a", "b")
    assert value(found.backward_transfer) == pytest.approx(0.05)
    (found,) = continual(matrix([column[:2] for column in taught()]))
    assert "a stage before the last one" in found.absent["backward_transfer"]
    assert found.backward_transfer is None


def test_units_are_never_averaged_and_losses_are_turned_round() -> None:
    losses = [10.0, 12.0]
    text = [
        score("text", [loss - 1, loss + 1], metric="bits_per_byte", group="language", higher=False)
        for loss in losses
    ]
    facts = [score("facts", shares(level), group="knowledge") for level in (0.5, 0.4)]
    shares_of, bits = continual(matrix([facts, text]))
    assert (shares_of.unit, bits.unit) == ("share", "bits_per_byte")
    assert value(bits.total_tax) == value(bits.worst) == pytest.approx(2)
    assert value(bits.overall) == pytest.approx(-12)
    assert value(shares_of.total_tax) == pytest.approx(0.1)


def test_intervals_are_paired() -> None:
    # 40 of 100 items are right, other ones each time, or the same but for one
    before = shares(0.4, 100)
    same, other = [0.0, *before[1:]], before[::-1]
    widths = []
    for after in (same, other):
        column = [score("facts", values, group="knowledge") for values in (before, after)]
        (found,) = continual(matrix([column]))
        assert found.total_tax is not None
        widths.append(found.total_tax.high - found.total_tax.low)
    # one flip that is seen, and up to three that are not
    assert widths[0] == pytest.approx(2 * 1.96 * 0.02, rel=0.1)
    assert widths[1] == pytest.approx(2 * 1.96 * math.sqrt(0.8 / 100), rel=0.1)


def test_the_same_matrix_gives_the_same_numbers() -> None:
    table = matrix(taught())
    assert continual(matrix(taught())) == continual(matrix(taught()))
    assert continual(table, Resamples(table, seed=1)) != continual(table)


def test_a_missing_cell_is_refused() -> None:
    full = matrix(taught())
    gap = replace(full.rows[2], scores={"a": full.rows[2].scores["a"]})
    with pytest.raises(ProbeError, match="second has no score for b"):
        continual(replace(full, rows=(*full.rows[:2], gap, full.rows[3])))
    with pytest.raises(ProbeError, match="need the base model's row and another"):
        continual(replace(full, rows=full.rows[:1]))


def few(of: Matrix, **parents: Any) -> tuple[Continual, ...]:
    return continual(of, Resamples(of, 50), **parents)


LEVELS = {
    "skill": ("domain", [0.1, 0.1, 0.3, 0.8, 0.7]),
    "manners": ("instruct", [0.2, 0.9, 0.5, 0.2, 0.6]),
    "facts": (None, [0.8, 0.7, 0.9, 0.6, 0.5]),
}
#: recipes/continual-pretraining: two ways, of which one came of the base
BRANCHED = {
    "instruct": ("base",),
    "aligned": ("instruct",),
    "domain": ("base",),
    "rebased": ("domain",),
}


def branched() -> Matrix:
    stages = ("base", *BRANCHED)
    rows = tuple(
        Row(stage, stage, {
            probe: score(probe, shares(levels[i]), owner, group="knowledge")
            for probe, (owner, levels) in LEVELS.items()
        })
        for i, stage in enumerate(stages)
    )  # fmt: skip
    return Matrix("small", "5d2e91ab", rows, tuple(LEVELS))


def test_a_hop_is_a_stage_against_the_one_it_started_from() -> None:
    (found,) = few(branched(), parents=BRANCHED)
    assert [(hop.before, hop.after) for hop in found.hops] == [
        ("base", "instruct"), ("instruct", "aligned"), ("base", "domain"), ("domain", "rebased"),
    ]  # fmt: skip
    assert [value(hop.tax) for hop in found.hops] == pytest.approx([0.1, -0.2, 0.2, 0.1])
    assert value(found.total_tax) == pytest.approx(0.8 - 0.5)


def test_what_a_sibling_was_is_not_forgotten() -> None:
    """Only base, domain and rebased led to the last checkpoint; `aligned` had 0.9 of the facts."""
    (found,) = few(branched(), parents=BRANCHED)
    assert found.rows == ("base", "domain", "rebased")
    assert found.owned == ("skill",)
    assert value(found.forgetting) == pytest.approx(0.1)
    assert value(found.backward_transfer) == pytest.approx(-0.1)
    assert found.worst_probe == "facts"
    assert value(found.worst) == pytest.approx(0.3)
    assert "a stage after the first one" in found.absent["forward_transfer"]
    assert value(found.average) == pytest.approx(0.7)


def test_a_merge_came_of_all_its_parents() -> None:
    both = BRANCHED | {"rebased": ("aligned", "domain")}
    (found,) = few(branched(), parents=both)
    assert found.rows == ("base", *BRANCHED)
    assert found.owned == ("skill", "manners")
    assert found.hops[-1].before == "aligned"
    # skill: 0.8 of domain, not of aligned, which never learnt it; manners: 0.9 of instruct
    assert value(found.forgetting) == pytest.approx((0.1 + 0.3) / 2)
    # domain started from the base, instruct too: no earlier stage could give them anything
    assert "a stage after the first one" in found.absent["forward_transfer"]
    # by row: manners 0.9, 0.5; skill 0.8; both 0.65
    assert value(found.incremental_average) == pytest.approx((0.9 + 0.5 + 0.8 + 0.65) / 4)


def test_owners_beside_the_line_are_said() -> None:
    aside = BRANCHED | {"rebased": ("base",)}
    (found,) = few(branched(), parents=aside)
    assert found.owned == ()
    assert found.absent["forgetting"] == (
        "the chain branches, and domain, instruct did not lead to rebased"
    )
    gone = [[score("skill", shares(v), "grpo") for v in (0.5, 0.6)]]
    (found,) = few(matrix(gone))
    assert found.absent["average"] == "no row of grpo, which the suite names as `owner`"


def test_no_interval_of_what_did_not_change_is_without_width() -> None:
    """100 items, none changed: three of them could have, each by a hundredth."""
    same = [score("facts", shares(0.6, 100), group="knowledge") for _ in range(3)]
    (found,) = continual(matrix([same]))
    half = 1.96 * math.sqrt(3) / 100
    for tax in (found.total_tax, found.hops[0].tax):
        assert value(tax) == 0
        assert tax is not None
        assert tax.low == pytest.approx(-half, rel=0.1)
        assert tax.high == pytest.approx(half, rel=0.1)
    assert (value(found.worst), found.worst.low) == (0, 0)
    assert found.worst.high == pytest.approx(half, rel=0.1)


def test_what_is_neither_better_nor_worse_is_no_tax() -> None:
    lengths = [
        replace(score("words", shares(v), group="instruction"), is_drift=True) for v in (0.5, 0.9)
    ]
    facts = [score("facts", shares(v), group="knowledge") for v in (0.5, 0.4)]
    (found,) = continual(matrix([lengths, facts]))
    assert found.probes == ("facts",)
    drifts = {
        each.group: each.absolute["share"].value for each in by_group(matrix([lengths, facts]))
    }
    assert drifts == pytest.approx({"knowledge": -0.1})
