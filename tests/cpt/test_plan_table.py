"""The plan's table with what the chain needs; without an estimate see test_plan.py."""

import subprocess
import sys
from typing import Any

from cpt.estimate import estimate
from cpt.plan_table import COLUMNS, table_of
from cpt.store import Store
from stages.workload import workload

CONFIG = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2}


def table(chain: Any, *changes: str) -> list[str]:
    plan, store = chain.plan(*changes), Store(chain.folder / "runs")
    needs = estimate(plan, store, "single", 1, workload)
    return table_of(plan, store, None, 0, "single", needs).splitlines()


def test_memory_disk_and_time_stand_before_the_status(chain: Any) -> None:
    chain.chain["model"]["random"]["config"] = CONFIG
    lines = table(chain, "stages.grpo.train.beta=0", "stages.grpo.hooks=[kl]")
    assert lines[1].split() == ["stage", "id", *COLUMNS, "memory", "disk", "time", "status"]
    assert lines[2].split()[-2:] == ["to", "do"]
    assert len(lines[2].split()) == 5
    for line in lines[3:7]:
        memory, unit, disk, unit_of_disk, time, *status = line.split()[-7:]
        assert float(memory.lstrip(">")) > 0.5
        assert 0 < float(disk) < 0.5
        assert (unit, unit_of_disk, time, status) == ("GB", "GB", "?", ["to", "do"])
    assert lines[6].split()[-7].startswith(">")
    assert [line.partition(":")[0] for line in lines[7:9]] == ["to do", "time"]


def test_a_model_of_unknown_size_is_not_guessed(chain: Any) -> None:
    chain.chain["model"] = {"path": "org/some-8B", "revision": "0" * 40}
    lines = table(chain)
    assert all(line.split()[-4:] == ["?", "?", "to", "do"] for line in lines[3:7])
    assert lines[7:] == [
        "memory and disk: unknown until the base model is there",
        "time: unknown, no stage was made here yet",
    ]


def test_an_estimate_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "trl", "datasets", "numpy", "gguf", "safetensors")
    code = (
        "import sys, stages.workload, cpt.plan_table, cpt.estimate, launch.opening\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
