"""What `make test-backends` writes down."""

import json
from dataclasses import replace
from pathlib import Path

from tests.bench.backends import Cell, write

SFT = Cell("sft", "sft", ("kl", "ema"), "one process", 3e-8, 0.25, None)
AGAIN = replace(SFT, stage="sft again", weights=None, terms=None, continued=True)
DPO = replace(SFT, stage="dpo", kind="dpo", hooks=("kl",), weights=2e-7)


def test_the_table_shows_the_worst_stage_and_what_was_not_run(tmp_path: Path) -> None:
    write("ddp", [SFT, AGAIN, DPO], 12.3, tmp_path)
    write("zero3", [SFT], 20.0, tmp_path)
    found = json.loads((tmp_path / "backends.json").read_text())
    assert [cell["stage"] for cell in found["backends"]["ddp"]["cells"]] == [
        "sft",
        "sft again",
        "dpo",
    ]
    assert found["backends"]["ddp"]["packages"]["torch"]
    lines = (tmp_path / "backends.md").read_text().splitlines()
    assert "| kl | 2.0e-07 again | 3.0e-08 |" in lines
    assert "| ema | 3.0e-08 again | 3.0e-08 |" in lines
    assert "| gem | - | - |" in lines
    assert "| sft again (sft) | kl, ema | equal to the bit | - |" in lines


def test_a_backend_is_written_anew_and_the_others_stay(tmp_path: Path) -> None:
    write("zero3", [replace(AGAIN, continued=False), SFT], 1.0, tmp_path)
    write("fsdp2", [SFT], 1.0, tmp_path)
    text = (tmp_path / "backends.md").read_text()
    assert "| sft again (sft) | kl, ema | - | differs |" in text
    assert "| kl | 3.0e-08 | 3.0e-08 |" in text  # no `again`
    write("zero3", [DPO], 1.0, tmp_path)
    text = (tmp_path / "backends.md").read_text()
    assert "sft again" not in text
    assert "| kl | 3.0e-08 | 2.0e-07 |" in text
