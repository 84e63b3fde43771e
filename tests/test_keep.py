"""`keep.stages` on a real chain: weights go, and come back to the bit where something reads them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cpt.removed_weights import removed_weights

pytestmark = pytest.mark.chain


def test_weights_that_went_are_made_again_to_the_bit(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    runs = finished.copy(tmp_path / "runs")
    stages = {name: runs / "stages" / finished.ids[name] for name in finished.ids}
    ended = processes.smoke(runs, "keep.stages=last")
    assert ended.code == 0, ended.output
    assert "nothing to do" in ended.output
    gone = [name for name, folder in stages.items() if removed_weights(folder)]
    assert gone == ["pretrain", "sft", "dpo"]
    assert not any((stages[name] / "checkpoint" / "model.safetensors").exists() for name in gone)

    shutil.rmtree(stages["grpo"])
    ended = processes.smoke(runs, "keep.stages=last")
    assert ended.code == 0, ended.output
    for name in (*gone, "grpo"):
        assert f"{name}: step " in ended.output
    assert "other weights" not in ended.output
    finished.assert_equal(runs, "grpo")
    assert [name for name, folder in stages.items() if removed_weights(folder)] == gone
    assert sorted(path.name for path in (runs / "stages").iterdir()) == sorted(
        finished.ids.values()
    )
