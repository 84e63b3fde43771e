"""Probes without a better direction: left out, or held to their margin both ways."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cpt.gate_spec import GateSpec, ProbeGate
from cpt.read_recipe import load
from eval.change import holm
from eval.compare import changes, shifts
from eval.continual import continual
from eval.matrix import Item, Matrix, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.report.flips import flips
from eval.resample import Resamples
from eval.stability import gaps
from eval.suite import load_suite
from launch.gate_rules import rules_of

ROOT = Path(__file__).parents[2]
NUMBERS = [100.0 + 7 * (i * 13 % 17) for i in range(60)]


def score(values: Sequence[float], margin: float | None = None, probe: str = "length") -> Score:
    items = tuple(Item(f"i{i}", v, 1.0, "", "") for i, v in enumerate(values))
    return Score(
        probe, "words", "instruction", True, margin, weighted_mean(items), ratio_stderr(items),
        items, "f0", is_drift=True,
    )  # fmt: skip


def moved(by: float) -> list[float]:
    return [number + by + (i % 5 - 2) for i, number in enumerate(NUMBERS)]


def row(stage: str, *scores: Score) -> Row:
    return Row(stage, stage, {each.probe: each for each in scores})


def test_without_a_margin_it_is_not_judged_and_costs_the_others_nothing() -> None:
    acc = replace(score([1.0] * 30 + [0.0] * 30, probe="acc"), is_drift=False)
    worse = replace(score([1.0] * 20 + [0.0] * 40, probe="acc"), is_drift=False)
    before, after = row("base", score(NUMBERS), acc), row("sft", score(moved(-50)), worse)
    assert changes(before, after, 0.02) == changes(row("base", acc), row("sft", worse), 0.02)
    (shift,) = shifts(before, after)
    assert (shift.probe, shift.verdict, shift.improved) == ("length", "undecided", False)
    assert [shift.delta, shift.gain] == pytest.approx([-50, -50])
    assert shift.p_holm < 0.001


@pytest.mark.parametrize("by", [-20.0, 20.0])
def test_with_a_margin_it_regresses_either_way_and_never_improves(by: float) -> None:
    before, after = row("base", score(NUMBERS, 10.0)), row("sft", score(moved(by), 10.0))
    (change,) = changes(before, after, 0.02)
    assert (change.verdict, change.improved) == ("regressed", False)
    assert [change.delta, change.gain] == pytest.approx([by, -20])
    assert change.gain_low < change.gain < change.gain_high < 0
    (held,) = changes(row("base", score(NUMBERS, 30.0)), row("sft", score(moved(by), 30.0)), 0.02)
    assert (held.verdict, held.margin) == ("held", 30.0)
    assert shifts(before, after) == ()


def test_the_rate_of_false_alarms_is_kept_at_no_margin() -> None:
    """Signs of a symmetric change, all 2^10: at most 5 % of them look like a change."""
    base = [float(i) for i in range(10)]
    found = 0
    for signs in range(2**10):
        after = [v + (1 if signs >> i & 1 else -1) * (1 + i % 3) for i, v in enumerate(base)]
        (change,) = shifts(row("a", score(base)), row("b", score(after)))
        found += change.p_value < 0.05
    assert found / 2**10 <= 0.06


def test_no_metric_of_a_matrix_counts_it() -> None:
    acc = replace(score([1.0, 0.0] * 10, probe="acc"), is_drift=False)
    rows = tuple(row(stage, score(moved(by)), acc) for stage, by in (("base", 0.0), ("sft", 9.0)))
    matrix = Matrix("small", "s0", rows, ("length", "acc"))
    assert [found.probes for found in continual(matrix, Resamples(matrix, 20))] == [("acc",)]
    assert [gap.probe for gap in gaps(matrix, [0, 1], resamples=Resamples(matrix, 20))] == ["acc"]
    only = Matrix("small", "s0", tuple(row(r.stage, r.scores["length"]) for r in rows), ("length",))
    assert gaps(only, [0, 1]) == ()
    binary = row("a", score([0.0, 1.0])), row("b", score([1.0, 0.0]))
    assert flips(*binary).lost == flips(*binary).won == ()


def test_the_gate_has_no_margin_for_it_unless_it_is_given_one() -> None:
    recipe = load(ROOT / "recipes" / "smoke" / "chain.yaml", ["probes=null"])
    suite = load_suite(ROOT / "configs" / "probes" / "behaviour.yaml")
    margins = rules_of(recipe, suite).margins
    assert {*suite.probes} - {*margins} == {"length", "tokens", "variety"}
    gate = GateSpec(probes={"length": ProbeGate(margin=30.0)})
    margins = rules_of(recipe.model_copy(update={"gate": gate}), suite).margins
    assert margins["length"] == 30.0
    assert "tokens" not in margins


def test_holm_is_over_the_shifts_alone() -> None:
    names = [f"length {i}" for i in range(3)]
    before = row("a", *(score(NUMBERS, probe=name) for name in names))
    after = row("b", *(score(moved(0.3 * i), probe=name) for i, name in enumerate(names)))
    found = shifts(before, after)
    assert [s.p_holm for s in found] == holm([s.p_value for s in found])
