"""What an interrupted stage left was damaged since: it is made anew, or named."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.test_kill import MOMENTS, interrupted

pytestmark = pytest.mark.chain


def test_a_marked_trainer_checkpoint_that_lost_something_is_not_continued(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """With one checkpoint only, the stage begins again."""
    runs = tmp_path / "runs"
    file = interrupted(finished, processes, runs) / "trainer" / "checkpoint-2" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    ended = processes.smoke(runs, "--until", "sft")
    assert ended.code == 0, ended.output
    assert "sft: checkpoint-2/optimizer.pt of the trainer is damaged" in ended.output
    assert "sft: step 1/" in ended.output
    finished.assert_equal(runs, "sft")


def test_damaged_weights_between_the_last_step_and_the_merge_are_named(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """What the message proposes then works."""
    runs = tmp_path / "runs"
    trained = (
        interrupted(finished, processes, runs, "pretrain", MOMENTS["after training"]) / "trained"
    )
    file = trained / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    ended = processes.smoke(runs, "--until", "pretrain")
    assert ended.code == 1
    *_, said = ended.output.splitlines()
    assert said.startswith(f"cpt: {trained}: is damaged ("), ended.output
    assert said.endswith("remove it, and the stage trains again")
    shutil.rmtree(trained)
    ended = processes.smoke(runs, "--until", "pretrain")
    assert ended.code == 0, ended.output
    finished.assert_equal(runs, "pretrain")
