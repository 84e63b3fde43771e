"""A probe without a better direction in the report: its numbers and how far it moved, and no verdict."""

import json
from typing import Any

from eval.report.content import content
from eval.report.gather import gather
from eval.report.markdown import markdown
from eval.report.page import html
from eval.report.terminal import terminal


def test_a_drift_is_told_and_not_judged(fake_chain: Any) -> None:
    fake = fake_chain(probed=3)
    for file in fake.stages.glob("*/probes/*.json"):
        result = json.loads(file.read_text())
        result["probes"]["python_docs"]["is_drift"] = True
        file.write_text(json.dumps(result))
    story = gather(fake.chain, fake.stages)
    last = story.last_probed
    assert last is not None
    assert "python_docs" not in {change.probe for change in last.from_base}
    (shift,) = last.shifted
    assert (shift.probe, shift.verdict) == ("python_docs", "undecided")
    said = f"python_docs {shift.delta:+.3f} (95 % interval"
    texts = [html(story), markdown(story), " ".join(terminal(story, None, 100, False).split())]
    for text in texts:
        assert "Drift, neither way is better: python_docs" in text
        assert "neither way is better" in text
    assert said in texts[2].replace("\u2212", "-")
    told = json.loads(json.dumps(content(story)))
    assert [change["probe"] for change in told["stages"][-3]["shifted"]] == ["python_docs"]
