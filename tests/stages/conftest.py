"""One past of tiny stages for the tests of this folder."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_stages import TinyStages


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[TinyStages]:
    """`base -> pretrain -> sft` on disk, and jobs on top of them. No sample answers: they cost time."""
    import torch
    import trl

    import stages.run as runner

    torch.set_num_threads(1)
    assert trl.SFTTrainer
    assert trl.DPOTrainer
    assert trl.GRPOTrainer
    gc.freeze()  # a stage collects garbage; all that was imported is none
    before, runner.NUM_SAMPLES = runner.NUM_SAMPLES, 0
    yield TinyStages(tmp_path_factory.mktemp("tiny"), tiny_folder)
    runner.NUM_SAMPLES = before
