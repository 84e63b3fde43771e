"""Broken folders, full disks, two runs at once: a clear message, and nothing is lost."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"
SUITE = Path(__file__).parent.parent / "configs" / "probes" / "smoke.yaml"
NO_SPACE = """
import errno, os

def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
"""


def assert_said(ended: Any, code: int, *words: str) -> None:
    """It ended with one message that has these words, and without a traceback."""
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output, ended.output
    said = ended.output[ended.output.rindex("cpt: ") :]
    assert len(said.strip().splitlines()) <= 3, said
    for word in words:
        assert word in said, said


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    """Lose the second half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


class TestBrokenFolders:
    def test_a_folder_without_a_manifest_is_moved_aside_and_made_anew(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="sft")
        sft = runs / "stages" / finished.ids["sft"]
        (sft / "manifest.json").unlink()
        (sft / "exemplars.jsonl").write_text("half")
        ended = processes.smoke(runs, "--until", "sft")
        assert ended.code == 0, ended.output
        assert "pretrain: step" not in ended.output
        finished.assert_equal(runs, "sft")
        assert list((runs / "stages").glob(f"{sft.name}.broken-*"))

    @pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
    def test_damaged_weights_of_a_parent_are_found_before_training(
        self, finished: Any, processes: Any, tmp_path: Path, damage: Any
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="sft")
        damage(runs / "stages" / finished.ids["sft"] / "checkpoint" / "model.safetensors")
        ended = processes.smoke(runs)
        assert_said(ended, 1, "model.safetensors", finished.ids["sft"], "run again")

    def test_damaged_weights_of_a_reference_are_found(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        """GRPO's parent is dpo; its reference is sft. What the message proposes then works."""
        runs = finished.copy(tmp_path / "runs", until="dpo")
        sft = runs / "stages" / finished.ids["sft"]
        flip(sft / "checkpoint" / "model.safetensors")
        assert_said(processes.smoke(runs), 1, "is damaged", sft.name)
        sft.rename(tmp_path / "away")
        ended = processes.smoke(runs)
        assert ended.code == 0, ended.output
        assert "dpo: step" not in ended.output
        assert "sft: step" in ended.output
        finished.assert_equal(runs)

    @pytest.mark.parametrize("verb", ["run", "probe"])
    def test_damaged_weights_are_found_before_they_are_measured(
        self, finished: Any, processes: Any, tmp_path: Path, verb: str
    ) -> None:
        """Their numbers would be kept for good."""
        runs = finished.copy(tmp_path / "runs", until="sft")
        stage = runs / "stages" / finished.ids["sft"]
        (result,) = (stage / "probes").iterdir()
        result.unlink()
        flip(stage / "checkpoint" / "model.safetensors")
        if verb == "run":
            ended = processes.smoke(runs, "--until", "sft")
        else:
            ended = processes.run("probe", stage, "--suite", SUITE, "--runs", runs)
        assert_said(ended, 1, "model.safetensors", "is damaged", stage.name)
        assert not result.exists()

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"id": 1, "odd": 2}', "\x00\x00"])
    def test_a_damaged_manifest_is_named(
        self, finished: Any, processes: Any, tmp_path: Path, content: str
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        file = runs / "stages" / finished.ids["pretrain"] / "manifest.json"
        file.write_text(content)
        ended = processes.smoke(runs, "--until", "sft")
        assert_said(ended, 1, str(file), "damaged")

    def test_a_damaged_chain_file_is_written_again(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="base")
        assert processes.smoke(runs, "--until", "base").code == 0
        file = runs / "chains" / "smoke" / "chain.json"
        good = file.read_text()
        file.write_text("{")
        ended = processes.smoke(runs, "--until", "base")
        assert ended.code == 0, ended.output
        assert file.read_text() == good

    def test_a_damaged_probe_result_is_named(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        (file,) = (runs / "stages" / finished.ids["pretrain"] / "probes").iterdir()
        cut(file)
        assert_said(processes.smoke(runs, "--until", "pretrain"), 1, file.name)

    def test_restart_begins_an_interrupted_stage_anew(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        partial = runs / "stages" / f"{finished.ids['sft']}.partial"
        (partial / "checkpoint").mkdir(parents=True)
        assert_said(processes.smoke(runs, "--until", "sft"), 1, str(partial / "checkpoint"))
        ended = processes.smoke(runs, "--until", "sft", "--restart")
        assert ended.code == 0, ended.output
        finished.assert_equal(runs, "sft")


class TestTwoAtOnce:
    def test_the_second_waits_and_finds_it_done(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="base")
        pair = [
            processes.start("run", SMOKE / "chain.yaml", "--until", "dpo", "--runs", runs)
            for _ in range(2)
        ]
        ended = [process.wait() for process in pair]
        assert [end.code for end in ended] == [0, 0], "\n".join(end.output for end in ended)
        assert any("waiting for it" in end.output for end in ended)
        for name in ("pretrain", "sft", "dpo"):
            trained = sum(f"{name}: step 1/" in end.output for end in ended)
            assert trained == 1, f"{name} was trained {trained} times"
        finished.assert_equal(runs, "pretrain", "sft", "dpo")
        assert not list((runs / "stages").glob("*.*"))

    def test_bases_are_made_once(self, finished: Any, processes: Any, tmp_path: Path) -> None:
        runs = tmp_path / "runs"
        pair = [
            processes.start("run", SMOKE / "chain.yaml", "--until", "base", "--runs", runs)
            for _ in range(2)
        ]
        ended = [process.wait() for process in pair]
        assert [end.code for end in ended] == [0, 0], "\n".join(end.output for end in ended)
        finished.assert_equal(runs, "base")


class TestFullDisk:
    @pytest.mark.parametrize(
        "code",
        [
            "import safetensors.torch as s, transformers.modeling_utils as m\n"
            "s.save_file = m.safe_save_file = full",
            "import cpt.hooks.trainer as t; t._Hooks._save_checkpoint = full",
            "import torch; torch.save = full",
            "import cpt.ids as i; i.atomic_write = full",
            "import stages.ending as r; r.write_lines = full",
            "import eval.probe as p; p.atomic_write = full",
        ],
        ids=["weights", "checkpoint", "optimizer", "json", "rows", "probes"],
    )
    def test_no_space_is_one_line_and_the_same_command_continues(
        self, finished: Any, processes: Any, tmp_path: Path, code: str
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        ended = processes.smoke(runs, "--until", "sft", code=NO_SPACE + code)
        assert_said(ended, 1, "the disk is full", "same command continues")
        again = processes.smoke(runs, "--until", "sft")
        assert again.code == 0, again.output
        finished.assert_equal(runs, "pretrain", "sft")

    @pytest.mark.parametrize("most", [2_000, 60_000, 300_000])
    def test_files_that_may_not_grow_are_a_full_disk(
        self, finished: Any, processes: Any, tmp_path: Path, most: int
    ) -> None:
        """RLIMIT_FSIZE stops real writes, inside Rust and C++ too, at different files of the stage."""
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))"
        ended = processes.smoke(runs, "--until", "sft", code=code)
        assert_said(ended, 1, "the disk is full")
        again = processes.smoke(runs, "--until", "sft")
        assert again.code == 0, again.output
        finished.assert_equal(runs, "pretrain", "sft")


class TestNoAccess:
    def test_a_runs_folder_that_cannot_be_written(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        ended = processes.smoke(tmp_path / "file" / "runs", "--until", "base")
        assert_said(ended, 1, "file", "--runs")

    def test_a_read_only_runs_folder(self, finished: Any, processes: Any, tmp_path: Path) -> None:
        runs = finished.copy(tmp_path / "runs", until="base")
        before = sorted(runs.rglob("*"))
        read_only = """
import errno, os, pathlib

def refuse(self, *args, **kwargs):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

pathlib.Path.mkdir = refuse
"""
        ended = processes.smoke(runs, "--until", "pretrain", code=read_only)
        assert_said(ended, 1, "Read-only file system", "--runs")
        assert sorted(runs.rglob("*")) == before


class TestPreemption:
    def test_sigterm_exits_4_and_the_same_command_continues(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        running = processes.start("run", SMOKE / "chain.yaml", "--until", "sft", "--runs", runs)
        trainer = runs / "stages" / f"{finished.ids['sft']}.partial" / "trainer"
        for _ in range(10_000):
            if list(trainer.glob("*/COMPLETE")):
                break
            time.sleep(0.005)
        os.kill(running.process.pid, signal.SIGTERM)
        assert_said(running.wait(), 4, "pre-empted; the same command continues")
        ended = processes.smoke(runs, "--until", "sft")
        assert ended.code == 0, ended.output
        assert "sft: continuing at step" in ended.output or ": step" not in ended.output
        finished.assert_equal(runs, "sft")


class TestGate:
    def test_stop_exits_3_keeps_the_checkpoint_and_stops_again(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        """The regression is rigged: sft's prose costs 5 bits per byte more than was measured."""
        runs = finished.copy(tmp_path / "runs", until="sft")
        (file,) = (runs / "stages" / finished.ids["sft"] / "probes").iterdir()
        tree = json.loads(file.read_text())
        cell = tree["probes"]["prose"]
        cell["value"] += 5
        for item in cell["items"]:
            item["value"] += 5
        file.write_text(json.dumps(tree))
        weights = runs / "stages" / finished.ids["sft"] / "checkpoint" / "model.safetensors"
        for _ in range(2):
            ended = processes.smoke(runs, "gate.on_regression=stop")
            assert ended.code == 3, ended.output
            assert "the gate stopped the chain after sft" in ended.output
            assert "prose rose by" in ended.output
            assert "Traceback" not in ended.output
            assert weights.is_file()
            assert not list((runs / "stages").glob("dpo-*"))
            assert (runs / "chains" / "smoke" / "report.html").is_file()
        ended = processes.smoke(runs, "gate.on_regression=warn", "--until", "dpo")
        assert ended.code == 0, ended.output
        finished.assert_equal(runs, "dpo")
