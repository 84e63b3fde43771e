"""The comparison of what is foretold with what was measured; no stage is run here."""

import json
from typing import Any

import pytest

from tests.bench import estimates
from tests.bench.estimates import CASES, RESULT, SMALL, page, ratios, summary


def a_case(memory: float, guess: float | None = 30.0) -> dict[str, Any]:
    measured = {"memory": 2e9, "disk": 5e8, "seconds": 20.0}
    told = {"memory": memory, "disk": 5e8, "seconds": 25.0}
    return {
        "2": {"foretold": told | {"seconds": guess}, "measured": measured},
        "4": {"foretold": told, "measured": measured},
    }


def test_ratios_are_foretold_over_measured() -> None:
    assert ratios(a_case(3e9)) == {
        "memory": 1.5,
        "disk": 1.0,
        "first guess of time": 1.5,
        "time": 1.25,
    }
    assert "first guess of time" not in ratios(a_case(3e9, None))


def test_the_summary_has_both_sides() -> None:
    found = summary({"a": a_case(1e9), "b": a_case(3e9), "c": a_case(2e9, None)})
    assert found["memory"] == {"median": 1.0, "least": 0.5, "most": 1.5}


def test_the_page_has_a_row_for_each_case() -> None:
    cases = {"a": a_case(1e9), "b": a_case(3e9, None)}
    machine = {"gpu": "", "tflops": 0.166, "host_memory_gb": 25.0}
    text = page({"machine": machine, "cases": cases, "summary": summary(cases)})
    assert "| a | 2.00 | 0.50 | 0.500 | 1.000 | 1.50 | 20 | 1.25 |" in text
    assert "| b | 2.00 | 1.50 | 0.500 | 1.000 | - | 20 | 1.25 |" in text
    assert "| memory | 1.00 | 0.50 | 1.50 |" in text


@pytest.mark.parametrize("name", CASES)
def test_every_case_plans(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its memory is foretold before anything is made."""
    planned: list[str] = []

    def foretold(file: Any, changes: Any, runs: Any, stage: str) -> dict[str, Any]:
        from launch.opening import open_chain

        forecast = open_chain(file, changes, runs).needs().stages[stage]
        assert forecast.load is not None
        planned.append(stage)
        return {}

    monkeypatch.setattr(estimates, "_run", lambda arguments, runs: None)
    monkeypatch.setattr(estimates, "told", foretold)
    monkeypatch.setattr(estimates, "taken", lambda *arguments: {})
    estimates.case(name, tmp_path)
    assert planned == [CASES[name][2]] * 2


def test_the_kept_results_are_of_known_cases() -> None:
    if not RESULT.is_file():
        pytest.skip("was not measured here")
    found = json.loads(RESULT.read_text())
    assert {*found["cases"]} <= {*CASES}
    assert found["summary"] == summary(found["cases"])
    assert RESULT.with_suffix(".md").read_text() == page(found)
    assert {*SMALL} <= {*CASES}
