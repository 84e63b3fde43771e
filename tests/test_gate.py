"""A chain goes on after a regression that is only warned of."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

# What is measured of sft: its prose costs 5 bits per byte more.
WORSE = """
import eval.probe

write = eval.probe.write_result

def rigged(folder, result):
    if folder.name.startswith("sft-"):
        cell = result["probes"]["prose"]
        cell["value"] += 5
        for item in cell["items"]:
            item["value"] += 5
    return write(folder, result)

eval.probe.write_result = rigged
"""


def test_warn_says_what_regressed_and_trains_the_next_stage(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs", until="sft")
    (file,) = (runs / "stages" / finished.ids["sft"] / "probes").iterdir()
    file.unlink()
    ended = processes.smoke(runs, "--until", "dpo", code=WORSE)
    assert ended.code == 0, ended.output
    said, _, after = ended.output.partition("dpo: loading")
    assert "smoke   sft after pretrain   gate: warn   " in said
    (row,) = (
        line
        for line in said.splitlines()
        if line.startswith("prose") and "change" not in line and "regressed" in line
    )
    assert "+4.962" in row
    assert "smoke   dpo after sft   gate: pass   " in after
    assert "the gate stopped" not in ended.output
    finished.assert_equal(runs, "dpo")
    page, text = (runs / "chains" / "smoke" / name for name in ("report.html", "report.md"))
    assert "prose rose by 4.96" in text.read_text()
    assert "prose rose by 4.96" in page.read_text()
