"""What a machine has: declared in YAML, or what the kernel and the driver say."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cpt import machine_spec as machines
from cpt.errors import RecipeError
from cpt.machine_spec import FOLDER, Machine, declared, this_machine


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_declared_machines_are_complete(file: Path) -> None:
    found = declared(file.stem)
    assert found.name == file.stem
    assert found.host_memory_gb > 0
    assert found.tflops > 0
    assert found.bandwidth_gbs > 0
    assert found.on_cpu == (not found.gpu) == (not found.gpu_memory_gb)


def test_an_unknown_machine_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--machine h10-8: .*did you mean 'h100-8'"):
        declared("h10-8")
    own = tmp_path / "mine.yaml"
    own.write_text("gpus: 4\ngpu_memory: 24\n")
    with pytest.raises(RecipeError, match=r"mine.yaml: .*did you mean 'gpu_memory_gb'"):
        declared(str(own))
    own.write_text("gpus: 4\ngpu_memory_gb: 24\n")
    assert declared(str(own)) == Machine(gpus=4, gpu_memory_gb=24, name="mine")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "ACCELERATORS", ("/nowhere/0", "/nowhere/1"))


@pytest.mark.usefixtures("no_gpu")
def test_this_machine_is_what_the_kernel_says(tmp_path: Path) -> None:
    found = this_machine(tmp_path / "runs" / "not" / "yet")
    assert found.on_cpu
    assert 0 <= found.host_memory_gb < 1e5
    assert found.disk_gb > 0
    assert 0 <= found.tflops < 100


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine whose nvidia-smi says what a test wants."""

    def says(text: str | None) -> None:
        def run(*arguments: Any, **settings: Any) -> Any:
            if text is None:
                raise FileNotFoundError("nvidia-smi")
            return subprocess.CompletedProcess(arguments, 0, stdout=text)

        monkeypatch.setattr(machines, "ACCELERATORS", ("/proc", "/nowhere"))
        monkeypatch.setattr(machines.subprocess, "run", run)
        machines._gpus.cache_clear()

    yield says
    machines._gpus.cache_clear()


def test_gpus_are_what_the_driver_says_and_as_fast_as_their_makers_say(
    with_gpus: Any, tmp_path: Path
) -> None:
    with_gpus("NVIDIA A100-SXM4-40GB, 40960\n" * 4)
    found = this_machine(tmp_path)
    assert (found.gpu, found.gpus) == ("NVIDIA A100-SXM4-40GB", 4)
    assert found.gpu_memory_gb == pytest.approx(42.9, abs=0.1)
    assert (found.tflops, found.bandwidth_gbs) == (312, 1555)
    assert not found.on_cpu


def test_a_gpu_that_nobody_declared_has_memory_and_no_speed(with_gpus: Any, tmp_path: Path) -> None:
    with_gpus("NVIDIA GeForce GTX 1080, 8192\n")
    found = this_machine(tmp_path)
    assert (found.gpus, found.tflops) == (1, 0)
    with_gpus(None)
    unknown = this_machine(tmp_path)
    assert (unknown.gpu, unknown.gpus, unknown.gpu_memory_gb) == ("a GPU", 1, 0)
