"""`backend: vllm`, with a stand-in for vLLM: what it is given, and that its numbers stay apart."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig

from cpt import yaml12
from cpt.errors import ProbeError
from eval import vllm_backend
from eval.probe import probe_checkpoint, probe_model
from eval.suite import Suite, load_suite
from launch.probing import probe_apart

ROOT = Path(__file__).parents[2]
SUITE = """
name: small
max_length: 64
backend: vllm
probes:
  arc_easy: {group: knowledge}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SUITE)
    return file


def test_another_backend_is_another_fingerprint(suite: Path) -> None:
    fast, slow = load_suite(suite), load_suite(suite, "hf")
    assert (fast.backend, slow.backend) == ("vllm", "hf")
    assert fast.probes["arc_easy"].fingerprint != slow.probes["arc_easy"].fingerprint
    assert fast.hash != slow.hash
    suite.write_text(SUITE.replace("backend: vllm\n", ""))
    assert load_suite(suite).hash == slow.hash
    assert load_suite(suite, "vllm").hash == fast.hash
    suite.write_text(SUITE.replace("vllm", "tgi"))
    with pytest.raises(ProbeError, match="backend"):
        load_suite(suite)


def test_what_vllm_does_not_tell_is_refused_when_the_suite_is_read(tmp_path: Path) -> None:
    """Its answers are plain text: how many tokens they have, and whether they were cut off, is not known."""
    behaviour = ROOT / "configs" / "probes" / "behaviour.yaml"
    with pytest.raises(ProbeError, match=r"probes\.tokens\.metric: tokens says how .* backend: hf"):
        load_suite(behaviour, "vllm")
    tree = yaml12.load(behaviour)
    del tree["probes"]["tokens"]
    tree["include"] = str(ROOT / "eval" / "tasks")
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(tree))
    with pytest.raises(ProbeError, match=r"probes\.endless\.metric: cut_off says how"):
        load_suite(copy, "vllm")
    del tree["probes"]["endless"]
    copy.write_text(yaml.safe_dump(tree))
    assert "loops" in load_suite(copy, "vllm").probes
    assert {"tokens", "endless"} <= load_suite(behaviour).probes.keys()


def test_settings_of_the_other_backend_are_refused(suite: Path) -> None:
    suite.write_text(SUITE + "batch_size: 8\n")
    with pytest.raises(ProbeError, match="batch_size: 8: vLLM fills its batches itself"):
        load_suite(suite)
    assert load_suite(suite, "hf").batch_size == 8
    suite.write_text(SUITE.replace("vllm", "hf") + "tensor_parallel: 2\n")
    for backend in (None, "vllm"):
        with pytest.raises(ProbeError, match=r"tensor_parallel: 2: only vLLM .* backend: vllm too"):
            load_suite(suite, backend)
    suite.write_text(SUITE.replace("vllm", "hf") + "batch_size: 8\n")
    assert load_suite(suite, "vllm").backend == "vllm"  # written for hf


@pytest.mark.parametrize(("visible", "used"), [(0, 1), (1, 1), (3, 2), (8, 2)])
def test_as_many_gpus_as_divide_the_heads(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, visible: int, used: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert AutoConfig.from_pretrained(tiny_folder).num_attention_heads == 2
    assert vllm_backend._most_gpus(str(tiny_folder), None, False) == used


def test_without_vllm_it_is_refused_with_a_way_out(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ProbeError, match=r"`backend: vllm`.*pip install vllm.*`backend: hf`"):
        probe_checkpoint("some/model", load_suite(suite), cache=tmp_path)


def test_a_model_in_memory_is_not_vllm_s(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="loads finished checkpoints itself"):
        probe_model(object(), object(), load_suite(suite), cache=tmp_path, stage_id="a")


def test_vllm_answers_in_place_of_the_model(
    suite: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def served(**settings: Any) -> Any:
        given.append(settings)
        config = SimpleNamespace(dtype=torch.bfloat16)
        model = SimpleNamespace(llm_engine=SimpleNamespace(model_config=config))
        return SimpleNamespace(name="v", model=model, world_size=1)

    fake = ModuleType("lm_eval.models.vllm_causallms")
    monkeypatch.setattr(fake, "VLLM", served, raising=False)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    asked: list[Any] = []

    def measured(harness: Any, probe: Any, tasks: Any) -> Any:
        asked.append((harness.name, probe.name))
        return "found"

    def cell(found: Any, probe: Any, since: float, dtype: str, tokenizer: Any) -> Any:
        asked.append(dtype)
        raise ProbeError("so far")

    monkeypatch.setattr("eval.measuring.load_tasks", lambda *given: {"tasks": {}})
    monkeypatch.setattr("eval.measuring.measure", measured)
    monkeypatch.setattr("eval.measuring.cell", cell)
    with pytest.raises(ProbeError, match="so far"):
        probe_checkpoint(str(tiny_folder), load_suite(suite), cache=tmp_path, dtype="auto")
    assert asked == [("v", "arc_easy"), "torch.bfloat16"]  # the one that it loaded
    assert given[0]["pretrained"] == str(tiny_folder)
    assert (given[0]["dtype"], given[0]["max_model_len"]) == ("auto", 64)
    assert given[0]["tensor_parallel_size"] == 1


def test_a_finished_stage_is_measured_in_a_process_of_its_own(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **settings: Any) -> Any:
        commands.append(command)
        return argparse.Namespace(returncode=len(commands) - 1, stderr="noise\ncpt: no GPU\n")

    monkeypatch.setattr(subprocess, "run", run)
    found: Suite = load_suite(suite)
    probe_apart(tmp_path / "sft-1", found, tmp_path, False)
    assert commands[0][1:] == [
        "-P", "-m", "launch.cli", "probe", str(tmp_path / "sft-1"), "--suite", str(suite),
        "--runs", str(tmp_path),
    ]  # fmt: skip
    with pytest.raises(ProbeError, match="sft-1: no GPU"):
        probe_apart(tmp_path / "sft-1", found, tmp_path, True)
    assert commands[1][-1] == "--trust-remote-code"
