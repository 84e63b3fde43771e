"""A backend starts the processes that it names, refuses what it cannot honour, and says so."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import PlanError
from launch.backend import (
    BACKENDS,
    ROOT,
    Backend,
    accelerate_command,
    assert_topology,
    backend,
    environment,
)
from launch.refusals import FACTS, OF_FILES, OF_HOOKS, OF_STAGES, REFUSALS, facts_of_files

SHARE_A_NUMBER = """
import sys
import torch
from accelerate import Accelerator
from cpt.world import leave
from launch.backend import assert_topology, backend

accelerator = Accelerator(cpu=True)
assert_topology(accelerator, backend(sys.argv[1]), int(sys.argv[2]))
total = torch.tensor([accelerator.process_index + 1.0])
torch.distributed.all_reduce(total)
if accelerator.is_main_process:
    print(f"sum {total.item()} of {accelerator.num_processes}")
leave()
"""


def accelerator(kind: str, num_processes: int, **state: Any) -> Any:
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        num_processes=num_processes,
        state=SimpleNamespace(**state),
        device=SimpleNamespace(type="cpu"),
    )


ZERO2 = {"deepspeed_plugin": SimpleNamespace(zero_stage=2)}
FSDP1 = {"fsdp_plugin": SimpleNamespace(fsdp_version=1)}
FSDP2 = {"fsdp_plugin": SimpleNamespace(fsdp_version=2)}


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="no backend 'zero_3'; did you mean 'zero3'"):
        backend("zero_3")


@pytest.mark.parametrize("chosen", BACKENDS.values(), ids=lambda chosen: chosen.name)
class TestEveryBackend:
    def test_its_files_are_shipped_and_agree_with_its_name(self, chosen: Backend) -> None:
        assert chosen.config_file.is_file()
        assert chosen.sharded == (chosen.name not in ("single", "ddp"))
        assert (chosen.deepspeed_file is not None) == chosen.name.startswith("zero")
        if chosen.deepspeed_file:
            settings = json.loads(chosen.deepspeed_file.read_text())
            assert f"zero{settings['zero_optimization']['stage']}" == chosen.name

    def test_accelerate_reads_its_file(self, chosen: Backend) -> None:
        from accelerate.commands.config.config_args import load_config_from_file

        assert load_config_from_file(str(chosen.config_file)).num_processes == chosen.num_processes

    def test_it_refuses_nothing_about_a_plain_stage(self, chosen: Backend) -> None:
        assert chosen.refusals([]) == []
        assert chosen.refusals(["clips", "checkpointing", "edits_gradients", "adapter"]) == []

    def test_gradient_hooks_and_fp16_are_refused(self, chosen: Backend) -> None:
        (refusal,) = chosen.refusals(["fp16", "edits_gradients"])
        assert refusal.instead == "use bf16"

    def test_its_refusals_are_written_in_known_words(self, chosen: Backend) -> None:
        assert all(refusal.when <= FACTS.keys() for refusal in REFUSALS[chosen.name])


def test_a_second_forward_with_adapter_and_checkpointing_is_refused_under_zero3_only() -> None:
    facts = ["second_forward", "adapter", "checkpointing"]
    assert [name for name, chosen in BACKENDS.items() if chosen.refusals(facts)] == ["zero3"]


def test_looks_are_refused_where_weights_are_spread() -> None:
    """One process would wait for ever for the others to run the model with it."""
    refusing = [name for name, chosen in BACKENDS.items() if chosen.refusals(["watches"])]
    assert refusing == ["fsdp2", "zero3"]


SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"


def test_what_a_hook_says_of_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cpt.hooks.kl import KL
    from launch.opening import open_chain

    changes = [f"stages.{stage}.hooks=[]" for stage in ("pretrain", "dpo", "grpo")]
    changes += ["stages.sft.hooks=[{kl: {beta: 0.1}}]", "num_processes=2"]
    monkeypatch.setattr(KL, "facts", frozenset({"freezes_later"}), raising=False)
    open_chain(SMOKE, changes, tmp_path, "ddp")
    with pytest.raises(
        PlanError, match=r"launch: zero2: parameters are sharded .* before the first"
    ):
        open_chain(SMOKE, changes, tmp_path, "zero2")
    monkeypatch.setattr(KL, "facts", frozenset({"freezes_latr"}), raising=False)
    with pytest.raises(PlanError, match=r"kl: its `facts` .*did you mean 'freezes_later'\?"):
        open_chain(SMOKE, changes, tmp_path, "ddp")


def test_every_fact_has_one_who_sets_it_and_one_who_asks() -> None:
    """What nothing sets, or nothing refuses, is dead."""
    import inspect

    from launch.checks import check_backend

    assert len(FACTS) == len(OF_STAGES) + len(OF_HOOKS) + len(OF_FILES)
    for facts, function in ((OF_STAGES, check_backend), (OF_FILES, facts_of_files)):
        assert all(f'"{fact}"' in inspect.getsource(function) for fact in facts)
    asked = {
        fact for refusals in REFUSALS.values() for refusal in refusals for fact in refusal.when
    }
    assert asked == FACTS.keys()


def test_what_a_person_wrote_into_the_files_counts() -> None:
    assert facts_of_files(
        {"fsdp_config": {"fsdp_version": 1, "fsdp_state_dict_type": "SHARDED_STATE_DICT"}},
        {
            "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
            "data_types": {"grad_accum_dtype": "fp32"},
            "managed_gradient_accumulation": False,
        },
    ) == {
        *("fsdp1", "sharded_save", "optimizer_offload", "grad_accum_dtype"),
        *("unmanaged_accumulation", "no_gather"),
    }


def test_a_need_that_is_not_met_names_backends_that_meet_it() -> None:
    assert "zero2 does not give 'logits'; use launch: single or ddp" in backend("zero2").refusal(
        "logits"
    )


def test_one_process_needs_no_launcher() -> None:
    command = accelerate_command(backend("single"), "launch.stage", ["a.yaml", "output=x"])
    assert command == [sys.executable, "-m", "launch.stage", "a.yaml", "output=x"]
    with pytest.raises(PlanError, match="single runs one process, not 2"):
        accelerate_command(backend("single"), "launch.stage", [], num_processes=2)


def test_deepspeed_finds_its_file_from_any_folder() -> None:
    command = accelerate_command(backend("zero2"), "launch.stage", [], num_processes=2)
    assert command[command.index("--num_processes") + 1] == "2"
    file = command[command.index("--deepspeed_config_file") + 1]
    assert file == str(ROOT / "configs" / "deepspeed" / "zero2.json")


def test_one_process_sees_one_gpu() -> None:
    single, ddp = backend("single"), backend("ddp")
    assert environment(single, {"CUDA_VISIBLE_DEVICES": "3,5"})["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment(single, {"CUDA_VISIBLE_DEVICES": ""})["CUDA_VISIBLE_DEVICES"] == ""
    assert environment(single, {})["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in environment(ddp, {"CUDA_VISIBLE_DEVICES": "3,5"})


@pytest.mark.parametrize(
    ("name", "num_processes", "actual"),
    [
        ("single", 1, accelerator("NO", 1)),
        ("ddp", 2, accelerator("MULTI_CPU", 2)),
        ("ddp", 2, accelerator("MULTI_GPU", 2)),
        ("zero2", 2, accelerator("DEEPSPEED", 2, **ZERO2)),
        ("fsdp2", 2, accelerator("FSDP", 2, **FSDP2)),
    ],
)
def test_the_topology_that_was_asked_for_passes(name: str, num_processes: int, actual: Any) -> None:
    assert_topology(actual, backend(name), num_processes)


@pytest.mark.parametrize(
    ("name", "actual", "words"),
    [
        ("ddp", accelerator("NO", 1), "accelerate set up single on 1"),
        ("ddp", accelerator("MULTI_GPU", 4), "accelerate set up ddp on 4"),
        ("fsdp2", accelerator("MULTI_CPU", 2), "accelerate set up ddp on 2"),
        ("fsdp2", accelerator("FSDP", 2, **FSDP1), "accelerate set up fsdp1 on 2"),
        ("zero3", accelerator("DEEPSPEED", 2, **ZERO2), "accelerate set up zero2 on 2"),
    ],
)
def test_another_topology_is_an_error(name: str, actual: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        assert_topology(actual, backend(name), 2)


@pytest.mark.chain
def test_ddp_on_a_cpu_is_really_two_processes(tmp_path: Path) -> None:
    (tmp_path / "share_a_number.py").write_text(SHARE_A_NUMBER)
    chosen = backend("ddp")
    command = accelerate_command(chosen, "share_a_number", ["ddp", "2"], num_processes=2)
    search = os.pathsep.join([str(tmp_path), str(ROOT)])
    inherited = {**os.environ, "PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, env={**inherited, **environment(chosen)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sum 3.0 of 2"
