"""The stability gap of a scripted series, by hand (`methods.md` A35)."""

from pathlib import Path

import pytest

from eval.looks import read_looks
from tests.eval.report.conftest import write_looks


def test_nobody_looked(tmp_path: Path) -> None:
    looks = read_looks(tmp_path)
    assert (looks.suite, looks.signals, looks.probes, looks.gaps) == ("", (), (), ())


def test_a_gap_that_the_end_hides(tmp_path: Path) -> None:
    """0.9, 0.4, 0.85: the end shows a fall of 0.05, and on the way it was ten times that."""
    write_looks(tmp_path)
    looks = read_looks(tmp_path)
    facts, prose = looks.gaps
    assert (looks.suite, facts.start, facts.lowest_at) == ("small", 0.9, 10)
    assert facts.lowest.value == pytest.approx(0.4)
    assert facts.windowed.value == pytest.approx(0.5)
    assert facts.recovery.value == pytest.approx(0.45)
    assert facts.recovery.low < 0.45 < facts.recovery.high
    assert facts.recovered_at is None
    assert prose.lowest_at == 10  # of bits the most is worst
    assert prose.windowed.value == pytest.approx(0.3)


def test_series_of_the_drift_and_of_probes_are_apart(tmp_path: Path) -> None:
    write_looks(tmp_path)
    looks = read_looks(tmp_path)
    assert [one.name for one in looks.probes] == ["probe/facts", "probe/prose"]
    kl = looks.series("kl")
    assert kl is not None
    assert (kl.steps, kl.values) == ((0.0, 10.0, 120.0), (0.0, 0.5, 0.8))
    assert looks.series("entropy") is None


def test_one_look_is_no_gap(tmp_path: Path) -> None:
    write_looks(tmp_path)
    for step in (10, 120):
        (tmp_path / "watch" / "small-ab" / f"step-{step:06d}.json").unlink()
    looks = read_looks(tmp_path)
    assert looks.probes
    assert looks.gaps == ()


def test_a_damaged_result_is_named_and_the_others_are_told(tmp_path: Path) -> None:
    write_looks(tmp_path)
    (tmp_path / "watch" / "small-ab" / "step-000010.json").write_text("{")
    looks = read_looks(tmp_path)
    (problem,) = looks.unreadable
    assert "step-000010.json: is not a whole probe result" in problem
    assert looks.gaps[0].lowest_at == 120
    assert looks.gaps[0].lowest.value == pytest.approx(0.85)


def test_the_suite_that_came_furthest_is_told_whatever_the_times(tmp_path: Path) -> None:
    write_looks(tmp_path)
    left = tmp_path / "watch" / "zeta-cd"
    left.mkdir()
    first = (tmp_path / "watch" / "small-ab" / "step-000000.json").read_text()
    (left / "step-000000.json").write_text(first.replace('"ab"', '"cd"'))
    assert read_looks(tmp_path).suite == "small"


def test_old_probes_are_measured_against_the_base_model(tmp_path: Path) -> None:
    write_looks(tmp_path / "sft")
    looked = tmp_path / "sft" / "watch" / "small-ab"
    assert read_looks(tmp_path / "sft", "sft").old_drop is None
    base = tmp_path / "base" / "probes" / "small-ab.json"
    base.parent.mkdir(parents=True)
    base.write_text((looked / "step-000120.json").read_text())
    drop = read_looks(tmp_path / "sft", "sft", [], tmp_path / "base").old_drop
    assert drop is not None
    assert drop.steps == (0, 10, 120)
    assert drop.values == pytest.approx((-0.05, 0.45, 0))  # of facts alone: bits are no shares
    for file in (base, *looked.glob("step-*.json")):
        file.write_text(file.read_text().replace('"group"', '"owner": "sft", "group"'))
    assert read_looks(tmp_path / "sft", "sft", [], tmp_path / "base").old_drop is None
    later = read_looks(tmp_path / "sft", "dpo", ["sft"], tmp_path / "base").old_drop
    assert later == drop
