"""What accelerate set up is compared with what the backend's files ask for, and named from the outside."""

from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import PlanError
from launch.backend import BACKENDS, Backend, backend
from launch.topology import asked_for, assert_topology, launched, set_up


def accelerator(kind: str, num_processes: int, **state: Any) -> Any:
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        num_processes=num_processes,
        state=SimpleNamespace(**state),
        device=SimpleNamespace(type="cpu"),
    )


def zero(stage: int, **more: Any) -> Any:
    config = {"zero_optimization": {"stage": stage, **more}}
    # What accelerate was told beside the file may be another stage: DeepSpeed's own settings count.
    plugin = SimpleNamespace(zero_stage=2, hf_ds_config=SimpleNamespace(config=config))
    return accelerator("DEEPSPEED", 2, deepspeed_plugin=plugin)


def fsdp(version: int, policy: str = "OffloadPolicy") -> Any:
    plugin = SimpleNamespace(fsdp_version=version, cpu_offload=type(policy, (), {})())
    return accelerator("FSDP", 2, fsdp_plugin=plugin)


CPU = {"device": "cpu"}
PASSING = [
    ("single", 1, accelerator("NO", 1)),
    ("ddp", 2, accelerator("MULTI_CPU", 2)),
    ("ddp", 2, accelerator("MULTI_GPU", 2)),
    ("zero2", 2, zero(2)),
    ("zero3", 2, zero(3, offload_param={"device": "none"})),
    ("zero2-offload", 2, zero(2, offload_optimizer=CPU)),
    ("zero3-offload", 2, zero(3, offload_optimizer=CPU, offload_param=CPU)),
    ("fsdp2", 2, fsdp(2)),
    ("fsdp2-offload", 2, fsdp(2, "CPUOffloadPolicy")),
]


@pytest.mark.parametrize(("name", "num_processes", "actual"), PASSING)
def test_the_topology_that_was_asked_for_passes(name: str, num_processes: int, actual: Any) -> None:
    assert_topology(actual, backend(name), num_processes)


@pytest.mark.parametrize(
    ("name", "actual", "words"),
    [
        ("ddp", accelerator("NO", 1), "accelerate set up single on 1 processes"),
        ("ddp", accelerator("MULTI_GPU", 4), "accelerate set up ddp on 4"),
        ("fsdp2", accelerator("MULTI_CPU", 2), "accelerate set up ddp on 2"),
        ("fsdp2", fsdp(1), "accelerate set up fsdp1 on 2"),
        (
            "fsdp2-offload",
            fsdp(2),
            "in host memory was asked for .fsdp2-offload., but .* fsdp2 on 2",
        ),
        ("zero3", zero(2), "accelerate set up zero2 on 2"),
        ("zero2", zero(2, offload_optimizer=CPU), "set up zero2 on 2 processes, optimizer in host"),
        (
            "zero3-offload",
            zero(3, offload_optimizer=CPU),
            "processes, optimizer in host memory; start",
        ),
    ],
)
def test_another_topology_is_an_error(name: str, actual: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        assert_topology(actual, backend(name), 2)


def test_launchers_that_did_not_find_each_other_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = accelerator("MULTI_GPU", 2)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert_topology(two, backend("ddp-nodes"), 2)
    with pytest.raises(PlanError, match=r"ddp on 2 processes was asked for .* on 2 machines"):
        assert_topology(two, backend("ddp"), 2)
    monkeypatch.delenv("GROUP_WORLD_SIZE")
    with pytest.raises(
        PlanError, match=r"on 2 machines was asked for .* set up ddp on 2 processes;"
    ):
        assert_topology(two, backend("ddp-nodes"), 2)


@pytest.mark.parametrize("chosen", BACKENDS.values(), ids=lambda chosen: chosen.name)
def test_what_accelerate_tells_its_processes_names_the_backend(chosen: Backend) -> None:
    size = 1 if chosen.name == "single" else 2
    variables = {"GROUP_WORLD_SIZE": "2"} if chosen.nodes else {}
    if chosen.deepspeed_file:
        variables |= {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(chosen.deepspeed_file),
        }
    if chosen.base == "fsdp2":
        variables |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_OFFLOAD_PARAMS": str(chosen.offloads).lower(),
        }
    assert launched(size, variables) == chosen.name


def test_a_file_of_none_of_ours_is_refused(tmp_path: Any) -> None:
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 0}}')
    told = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "zero.json"),
    }
    with pytest.raises(PlanError, match="accelerate was given a file for zero0, which is none of"):
        launched(2, told)
    assert launched(2, {"ACCELERATE_USE_DEEPSPEED": "true"}) == "zero2"  # accelerate's own default


def test_accelerates_own_plugins_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects that accelerate really makes of our files, not stand-ins of them."""
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin

    for name in ("zero1", "zero2-offload", "zero3", "zero3-offload"):
        chosen = backend(name)
        plugin = DeepSpeedPlugin(hf_ds_config=str(chosen.deepspeed_file))
        made = accelerator("DEEPSPEED", 2, deepspeed_plugin=plugin)
        assert set_up(made) == asked_for(chosen, 2), name
    for name in ("fsdp2", "fsdp2-offload"):
        chosen = backend(name)
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=chosen.offloads)
        made = accelerator("FSDP", 2, fsdp_plugin=plugin)
        assert set_up(made) == asked_for(chosen, 2), name
