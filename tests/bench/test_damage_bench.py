"""What the damage bench calls repaired is within every margin, not only without a verdict."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.report.gather import gather
from tests.bench.damage import markdown, outcome
from tests.eval.report.conftest import make_chain


def story(folder: Path, margin: float) -> Any:
    """A chain whose sft was repaired: `dpo` of the made-up chain stands for it."""
    fake = make_chain(folder, probed=4)
    chain = json.loads((fake.chain / "chain.json").read_text())
    made = {"name": "sft.repair", "kind": "repair", "stands_for": "sft"}
    chain["nodes"][3] |= made | {"parents": ["sft", "pretrain"]}
    del chain["nodes"][4]
    for probe in chain["suite"]["probes"].values():
        probe["margin"] = margin
    (fake.chain / "chain.json").write_text(json.dumps(chain))
    manifest = next(fake.stages.glob("dpo-*/manifest.json"))
    tree = json.loads(manifest.read_text())
    tree["checks"] = {"gate": {"attempts": [{}, {}], "share": 0.5}}
    manifest.write_text(json.dumps(tree))
    return gather(fake.chain, fake.stages)


@pytest.mark.parametrize(("margin", "is_within"), [(0.006, False), (0.3, True)])
def test_a_fall_that_nobody_can_show_is_still_beyond_its_margin(
    tmp_path: Path, margin: float, is_within: bool
) -> None:
    told = story(tmp_path, margin)
    repaired = told.stages[3]
    assert not repaired.verdict.regressed
    result = outcome(told) | {"command": "x"}
    assert result["is_within"] == is_within
    assert result["num_shown"] == sum(c.verdict == "held" for c in repaired.from_base)
    many = len(result["probes"])
    sentence = f"by point estimate, which is shown for {result['num_shown']} of {many} probes."
    assert sentence in markdown(result)
