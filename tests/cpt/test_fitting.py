"""What does not fit a machine is said with the first change of settings that fits."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpt.estimate_text import shortfalls
from cpt.fitting import Shortfall, shortfall
from cpt.footprint import Footprint
from cpt.hooks.table import build
from cpt.machine_spec import Machine
from launch.opening import open_chain

# Llama-3.1-8B: the weights are on the hub, and the plan has only its config to go by.
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def gpu(memory: float, host: float = 2000.0) -> Machine:
    return Machine(gpu="a GPU", gpus=8, gpu_memory_gb=memory, host_memory_gb=host, tflops=300)


def test_the_gpu_then_the_host() -> None:
    found = Footprint({"weights": 30e9}, 0, 0, host={"loading": 20e9})
    assert shortfall(found, gpu(40), 8) is None
    assert shortfall(found, gpu(20), 8) == Shortfall("GPU", 30e9, 20e9)
    assert shortfall(found, gpu(40, 100), 8) == Shortfall("host", 160e9, 100e9)
    assert shortfall(found, gpu(40, 100), 4) is None
    assert shortfall(found, Machine(gpus=8), 8) is None  # nothing is known of it
    on_cpu = Machine(host_memory_gb=50)
    assert shortfall(found, on_cpu, 2) == Shortfall("host", 60e9, 50e9)


@pytest.fixture
def big(chain: Any, tmp_path: Path) -> Any:
    """A chain of one stage of an 8B model on eight GPUs."""
    chain.chain["model"]["random"]["config"] = CONFIG
    chain.chain["model"]["random"]["tokenizer"]["vocab_size"] = 128256
    chain.chain["model"]["dtype"] = "bfloat16"
    chain.chain["stages"] = {"sft": "sft.yaml"}
    train = {"max_steps": 10, "batch_size": 64, "max_length": 4096, "bf16": True}
    chain.stages = {"sft": {"kind": "sft", "data": "chats.jsonl", "train": train}}
    chain.stages["sft"]["train"]["activation_checkpointing"] = False

    def opened(launch: str, *changes: str) -> Any:
        return open_chain(chain.write(), changes, tmp_path / "runs", launch)

    return opened


@pytest.mark.parametrize(
    ("launch", "memory", "changes"),
    [
        ("zero2", 80, []),
        ("zero2", 60, []),
        ("ddp", 80, ["stages.sft.micro_batch=1"]),
        ("zero2", 30, ["stages.sft.micro_batch=1"]),
    ],
)
def test_the_named_remedy_removes_the_warning(
    big: Any, launch: str, memory: float, changes: list[str]
) -> None:
    (warning,) = shortfalls(big(launch, *changes).needs(gpu(memory)))
    assert warning.startswith("sft needs about ")
    remedy = warning.partition("; it would fit with ")[2]
    assert remedy, warning
    applied, name = list(changes), launch
    for word in remedy.replace(" with ", " and ").split(" and "):
        key, _, value = word.partition(": ")
        if word == "a lora hook":
            applied.append("stages.sft.hooks=[lora]")
        elif key == "launch":
            name = value
        else:
            applied.append(f"stages.sft.{key}={value}")
    assert shortfalls(big(name, *applied).needs(gpu(memory))) == []


def test_what_nothing_helps_is_said(big: Any) -> None:
    (warning,) = shortfalls(big("zero2").needs(gpu(4)))
    assert warning.endswith("; no setting that was tried helps")


def test_a_hook_that_a_backend_refuses_is_not_sent_there(
    big: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpt.hooks.kl import KL

    hooks = "stages.sft.hooks=[{kl: {beta: 0.1}}]"
    monkeypatch.setattr(KL, "facts", frozenset({"freezes_later"}), raising=False)
    (warning,) = shortfalls(big("ddp", hooks).needs(gpu(100)))
    assert "launch:" not in warning


def test_every_process_on_a_machine_loads_the_model(big: Any) -> None:
    (warning,) = shortfalls(big("zero2", "stages.sft.micro_batch=1").needs(gpu(1000, 100)))
    assert "of the host's memory and this machine has 100" in warning


def test_a_guess_is_made_where_nothing_was_measured(big: Any) -> None:
    needs = big("zero2").needs(gpu(1000))
    assert needs.stages["sft"].is_guess
    size = needs.size.num_parameters
    operations = 6 * size * 10 * 64 * 4096
    assert needs.stages["sft"].making == pytest.approx(operations / (0.35 * 300e12 * 8))
    slower = big("zero2", "stages.sft.train.activation_checkpointing=true").needs(gpu(1000))
    assert slower.stages["sft"].making / needs.stages["sft"].making == pytest.approx(8 / 6)
    adapter = big("zero2", "stages.sft.hooks=[lora]").needs(gpu(1000))
    assert adapter.stages["sft"].making / needs.stages["sft"].making == pytest.approx(4 / 6)
    unknown = big("zero2").needs(replace_speed(gpu(1000)))
    assert unknown.stages["sft"].making is None


def test_what_was_measured_here_says_nothing_of_another_machine(big: Any) -> None:
    from cpt.manifest import Manifest

    chain = big("zero2")
    folder = chain.store.stage("sft-0")
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 300}))
    train = {"max_steps": 10, "batch_size": 64, "max_length": 4096}
    Manifest(
        id="sft-0",
        kind="sft",
        name="sft",
        inputs={"train": train},
        seconds={"train": 7.0},
        num_steps=10,
        world={"backend": "zero2", "size": 8},
    ).write(folder)
    here, there = gpu(1000), gpu(1000).model_copy(update={"name": "h100-8"})
    assert not chain.needs(here).stages["sft"].is_guess
    assert chain.needs(there).stages["sft"].is_guess


def test_more_processes_than_gpus(big: Any) -> None:
    four = gpu(1000).model_copy(update={"gpus": 4})
    (warning,) = shortfalls(big("zero2").needs(four))
    assert warning == "8 processes are to share this machine, which has 4 GPUs; set num_processes"
    assert shortfalls(big("zero2", "num_processes=4").needs(four)) == []


def replace_speed(machine: Machine) -> Machine:
    return machine.model_copy(update={"tflops": 0.0})


def test_frozen_models_and_old_rows_take_their_time(big: Any) -> None:
    plain = big("ddp").needs(gpu(1000)).stages["sft"].making
    held = big("ddp", "stages.sft.hooks=[{kl: {of: base, beta: 0.1}}]").needs(gpu(1000))
    assert held.stages["sft"].making / plain == pytest.approx(8 / 6)
    assert build("kl", {"of": "base"}, "").models_held()
