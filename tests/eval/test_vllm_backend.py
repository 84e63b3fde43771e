"""`backend: vllm`, with a stand-in for vLLM: what it is given, and that its numbers stay apart."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cpt.errors import ProbeError
from eval.probe import probe_checkpoint, probe_model
from eval.suite import Suite, load_suite
from launch.probing import probe_apart

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
        return SimpleNamespace(name="v")

    fake = ModuleType("lm_eval.models.vllm_causallms")
    monkeypatch.setattr(fake, "VLLM", served, raising=False)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    asked: list[Any] = []

    def measured(harness: Any, tokenizer: Any, probe: Any, folder: Path) -> Any:
        asked.append((harness.name, probe.name))
        raise ProbeError("so far")

    monkeypatch.setattr("eval.probe._measure", measured)
    with pytest.raises(ProbeError, match="so far"):
        probe_checkpoint(str(tiny_folder), load_suite(suite), cache=tmp_path, dtype="bfloat16")
    assert asked == [("v", "arc_easy")]
    assert given[0]["pretrained"] == str(tiny_folder)
    assert (given[0]["dtype"], given[0]["max_model_len"]) == ("bfloat16", 64)


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
