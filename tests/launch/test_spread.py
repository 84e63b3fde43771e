"""A checkpoint that is spread over processes gives a whole one's numbers, and no process has all of it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.world import World
from launch.spread import fits_one

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from transformers import AutoTokenizer
from cpt.world import current, leave
from eval.probe import probe_model
from eval.suite import load_suite
from launch.in_memory import accelerator_of
from launch.spread import load_spread
world = current()
checkpoint, folder = map(Path, sys.argv[1:])
model = load_spread(checkpoint, {"dtype": "float32"}, world)
own = sum(parameter.to_local().numel() for parameter in model.parameters())
result = probe_model(model, AutoTokenizer.from_pretrained(checkpoint), load_suite(folder / "small.yaml"),
                     cache=folder / "two", stage_id="a", accelerator=accelerator_of(world))
result["own"] = own
(folder / f"rank{world.rank}.json").write_text(json.dumps(result))
world.barrier()
leave()
"""


def two_processes(*arguments: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    common = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in ranks:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in ranks:
            process.kill()


@pytest.mark.chain
@pytest.mark.parametrize("is_tied", [False, True])
def test_every_item_is_that_of_a_whole_model(
    is_tied: bool, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from eval.probe import probe_model
    from tests.eval.test_probe import PROBES, write_suite

    checkpoint = tmp_path / "checkpoint"
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        eos_token_id=tiny_tokenizer.eos_token_id, pad_token_id=tiny_tokenizer.pad_token_id,
        initializer_range=0.4, tie_word_embeddings=is_tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(checkpoint, max_shard_size="20KB")
    assert len([*checkpoint.glob("*.safetensors")]) > 1
    tiny_tokenizer.save_pretrained(checkpoint)
    suite = write_suite(tmp_path, PROBES)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    whole = probe_model(model, tiny_tokenizer, suite, cache=tmp_path / "one", stage_id="a")
    two_processes(str(checkpoint), str(tmp_path))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["probes"] == second["probes"]
    number = sum(parameter.numel() for parameter in model.parameters())
    assert first["own"] + second["own"] == number
    assert max(first["own"], second["own"]) < 0.6 * number
    for name, cell in whole["probes"].items():
        there = first["probes"][name]
        assert there["value"] == pytest.approx(cell["value"], abs=1e-4), name
        assert [item["id"] for item in there["items"]] == [item["id"] for item in cell["items"]]
        for one, other in zip(there["items"], cell["items"], strict=True):
            assert one["value"] == pytest.approx(other["value"], abs=1e-4), (name, one["id"])


def test_what_fits_is_not_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    assert fits_one(tmp_path, World())
    on_gpu = World(accelerator=SimpleNamespace(device="cuda"))
    for free, fits in ((1251, True), (1249, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert fits_one(tmp_path, on_gpu) == fits
