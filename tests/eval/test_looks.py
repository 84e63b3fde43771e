"""The stability gap of a scripted series, by hand (`methods.md` A35)."""

from pathlib import Path

import pytest

from eval.looks import read_looks
from tests.eval.report.conftest import write_looks


def test_nobody_looked(tmp_path: Path) -> None:
    looks = read_looks(tmp_path)
    assert (looks.suite, looks.drift, looks.probes, looks.gaps) == ("", (), (), ())


def test_a_gap_that_the_end_hides(tmp_path: Path) -> None:
    """0.9, 0.4, 0.85: the end shows a fall of 0.05, and on the way it was ten times that."""
    write_looks(tmp_path)
    facts, prose = read_looks(tmp_path).gaps
    assert (facts.first, facts.worst, facts.step, facts.last) == (0.9, 0.4, 10, 0.85)
    assert facts.fall == pytest.approx(0.5)
    assert facts.recovery == pytest.approx(0.45)
    assert (prose.worst, prose.step) == (1.3, 10)  # of bits the most is worst
    assert prose.fall == pytest.approx(0.3)
    assert prose.recovery == pytest.approx(0.2)


def test_series_of_the_drift_and_of_probes_are_apart(tmp_path: Path) -> None:
    write_looks(tmp_path)
    looks = read_looks(tmp_path)
    assert [one.name for one in looks.probes] == ["probe/facts", "probe/prose"]
    kl = looks.series("kl")
    assert kl is not None
    assert (kl.steps, kl.values) == ((0.0, 10.0, 120.0), (0.0, 0.5, 0.8))
    assert looks.series("entropy") is None


def test_without_the_suites_description_there_are_curves_alone(tmp_path: Path) -> None:
    write_looks(tmp_path)
    (tmp_path / "watch" / "suite.json").write_text("{")
    looks = read_looks(tmp_path)
    assert looks.probes
    assert looks.gaps == ()
