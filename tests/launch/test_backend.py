"""A backend starts the processes that it names, refuses what it cannot honour, and says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpt.errors import PlanError
from cpt.sharding import sharding
from launch.backend import BACKENDS, ROOT, Backend, accelerate_command, backend, environment
from launch.refusals import FACTS, OF_FILES, OF_HOOKS, OF_STAGES, REFUSALS, facts_of_files
from launch.topology import asked_for

SHARE_A_NUMBER = """
import sys
import torch
from accelerate import Accelerator
from cpt.world import leave
from launch.backend import backend
from launch.topology import assert_topology

accelerator = Accelerator(cpu=True)
assert_topology(accelerator, backend(sys.argv[1]), int(sys.argv[2]))
total = torch.tensor([accelerator.process_index + 1.0])
torch.distributed.all_reduce(total)
if accelerator.is_main_process:
    print(f"sum {total.item()} of {accelerator.num_processes}")
leave()
"""


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="no backend 'zero_3'; did you mean 'zero3'"):
        backend("zero_3")


@pytest.mark.parametrize("chosen", BACKENDS.values(), ids=lambda chosen: chosen.name)
class TestEveryBackend:
    def test_its_files_are_shipped_and_agree_with_its_name(self, chosen: Backend) -> None:
        assert chosen.config_file.is_file()
        assert chosen.sharded == sharding(chosen.name).is_sharded
        assert (chosen.deepspeed_file is not None) == chosen.name.startswith("zero")
        offloads = asked_for(chosen, 8).offloads
        assert bool(offloads) == chosen.offloads
        if chosen.deepspeed_file:
            zero = chosen.deepspeed["zero_optimization"]
            assert f"zero{zero['stage']}" == chosen.base
            assert ("weights" in offloads) == (chosen.offloads and chosen.base == "zero3")

    def test_accelerate_reads_its_file(self, chosen: Backend) -> None:
        from accelerate.commands.config.config_args import load_config_from_file

        read = load_config_from_file(str(chosen.config_file))
        kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}
        assert read.distributed_type.value == kinds.get(chosen.base, "DEEPSPEED")
        assert read.num_processes == chosen.num_processes
        assert (read.num_machines > 1) == chosen.nodes
        assert read.num_processes % read.num_machines == 0
        if chosen.base == "fsdp2":
            assert read.fsdp_config["fsdp_offload_params"] is chosen.offloads
        if chosen.nodes:
            assert read.main_process_port == 29500
            assert read.rdzv_backend == "static"
        if chosen.nodes and chosen.deepspeed_file:
            assert read.deepspeed_config["deepspeed_multinode_launcher"] == "standard"

    def test_accelerate_launches_what_it_names(self, chosen: Backend) -> None:
        """The launcher's own reading of command line and file together, as it would start processes."""
        from accelerate.commands import launch

        if chosen.name == "single":
            return  # has no launcher
        arguments = ["--config_file", str(chosen.config_file), "--machine_rank", "1"]
        if chosen.deepspeed_file:
            arguments += ["--deepspeed_config_file", str(chosen.deepspeed_file)]
        given = launch.launch_command_parser().parse_args([*arguments, "-m", "launch.stage", "x"])
        read, _, _ = launch._validate_launch_command(given)
        is_started = (read.multi_gpu, read.use_fsdp, read.use_deepspeed)
        assert is_started == (
            chosen.base == "ddp",
            chosen.base == "fsdp2",
            sharding(chosen.name).is_zero,
        )
        assert (read.num_machines, read.machine_rank) == (2 if chosen.nodes else 1, 1)
        if chosen.nodes:
            assert (read.main_process_ip, read.main_process_port) == ("127.0.0.1", 29500)
        if chosen.nodes and chosen.deepspeed_file:
            assert read.deepspeed_multinode_launcher == "standard"

    def test_its_variant_gives_hooks_what_its_base_does(self, chosen: Backend) -> None:
        assert chosen.gives == backend(chosen.base).gives

    def test_it_refuses_nothing_about_a_plain_stage(self, chosen: Backend) -> None:
        assert chosen.refusals([]) == []
        if not chosen.offloads:
            assert chosen.refusals(["clips", "checkpointing", "edits_gradients", "adapter"]) == []

    def test_gradient_hooks_and_fp16_are_refused(self, chosen: Backend) -> None:
        (refusal,) = chosen.refusals(["fp16", "edits_gradients"])
        assert refusal.instead == "use bf16"

    def test_its_refusals_are_written_in_known_words(self, chosen: Backend) -> None:
        assert all(refusal.when <= FACTS.keys() for refusal in REFUSALS[chosen.base])


def test_a_second_forward_with_adapter_and_checkpointing_is_refused_under_zero3_only() -> None:
    facts = ["second_forward", "adapter", "checkpointing"]
    refusing = [name for name, chosen in BACKENDS.items() if chosen.refusals(facts)]
    assert refusing == ["zero3", "zero3-offload", "zero3-nodes"]


def test_a_hook_that_edits_gradients_meets_a_stale_norm_where_zero_offloads() -> None:
    facts = ["edits_gradients", "clips"]
    refusing = [name for name, chosen in BACKENDS.items() if chosen.refusals(facts)]
    assert refusing == ["zero1-offload", "zero2-offload"]


def test_looks_are_refused_where_weights_are_spread() -> None:
    """One process would wait for ever for the others to run the model with it."""
    refusing = [name for name, chosen in BACKENDS.items() if chosen.refusals(["watches"])]
    assert {name.partition("-")[0] for name in refusing} == {"fsdp2", "zero3"}


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


def test_weights_in_4_bits_are_not_spread(tmp_path: Path) -> None:
    from launch.opening import open_chain

    changes = [f"stages.{stage}.hooks=[]" for stage in ("pretrain", "dpo", "grpo")]
    changes += ["stages.sft.hooks=[{lora: {quantise: nf4}}]", "num_processes=2"]
    for name in ("ddp", "zero1", "zero2"):
        open_chain(SMOKE, changes, tmp_path, name)
    for name in ("fsdp2", "zero3"):
        words = rf"launch: {name}: weights in 4 bits cannot be spread .*; use launch: ddp, zero1"
        with pytest.raises(PlanError, match=words):
            open_chain(SMOKE, changes, tmp_path, name)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_32bit", "lion_8bit"])
def test_optimizers_that_know_no_spread_weights_are_refused(optim: str, tmp_path: Path) -> None:
    from launch.opening import open_chain

    changes = [f"stages.{stage}.hooks=[]" for stage in ("pretrain", "sft", "dpo", "grpo")]
    changes += [f"stages.sft.train.optim={optim}", "num_processes=2"]
    open_chain(SMOKE, changes, tmp_path, "ddp")
    with pytest.raises(PlanError, match=r"launch: fsdp2: the 8-bit and paged optimizers .* at the"):
        open_chain(SMOKE, changes, tmp_path, "fsdp2")
    open_chain(SMOKE, [*changes, "stages.sft.train.optim=adamw_torch"], tmp_path, "fsdp2")


def test_every_fact_has_one_who_sets_it_and_one_who_asks() -> None:
    """What nothing sets, or nothing refuses, is dead."""
    import inspect

    from launch.checks import asked as asked_of

    assert len(FACTS) == len(OF_STAGES) + len(OF_HOOKS) + len(OF_FILES)
    for facts, function in ((OF_STAGES, asked_of), (OF_FILES, facts_of_files)):
        assert all(f'"{fact}"' in inspect.getsource(function) for fact in facts)
    asked = {
        fact for refusals in REFUSALS.values() for refusal in refusals for fact in refusal.when
    }
    assert asked == FACTS.keys()


def test_what_a_person_wrote_into_the_files_counts() -> None:
    assert facts_of_files(
        {
            "fsdp_config": {"fsdp_version": 1, "fsdp_state_dict_type": "SHARDED_STATE_DICT"},
            "deepspeed_config": {"deepspeed_config_file": "zero.json"},
            "num_machines": 2,
            "main_process_port": 0,
        },
        {
            "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
            "data_types": {"grad_accum_dtype": "fp32"},
            "managed_gradient_accumulation": False,
        },
    ) == {
        *("fsdp1", "sharded_save", "optimizer_offload", "grad_accum_dtype"),
        *("unmanaged_accumulation", "no_gather", "free_port", "pdsh"),
    }


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
