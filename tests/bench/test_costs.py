"""What `make bench-costs` writes of what it measured."""

import pytest

from cpt.hooks import table
from tests.bench.costs import BESIDE, CASES, ratios

NONE = {"step": 2.0, "memory": 100, "once": 0.0, "steps": 5}
LORA = {"step": 1.6, "memory": 50, "once": 0.04, "steps": 3}
OFF = {"step": 2.0, "without": 1.6, "memory": 60, "once": 0.0, "steps": 5}


def test_what_stands_on_an_adapter_is_compared_with_the_adapter() -> None:
    found = ratios({"none": NONE, "lora": LORA, "kl (adapter off)": OFF})
    assert found["lora"] == {"step": 0.8, "memory": 0.5, "once_seconds": 0.0, "steps": 3}
    assert found["kl (adapter off)"] == {
        "step": 1.25,
        "memory": 1.2,
        "once_seconds": 0.0,
        "steps": 5,
        "relative_to": "lora",
    }
    assert list(ratios({"none": NONE, "kl (adapter off)": OFF})) == ["none"]


@pytest.mark.parametrize("case", [case for case in CASES if case != "none"])
def test_a_case_is_of_a_hook_that_can_be_built(case: str) -> None:
    name = case.partition(" (")[0]
    assert name in table.TABLE
    hooks = [entry if isinstance(entry, dict) else {entry: {}} for entry in CASES[case]]
    built = [table.build(key, entry[key], case).name for entry in hooks for key in entry]
    assert built[-1] == name
    beside = CASES[BESIDE.get(case, "none")]
    assert CASES[case][: len(beside)] in (beside, [{entry: {}} for entry in beside])
