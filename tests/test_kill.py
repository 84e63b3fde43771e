"""Killed with SIGKILL, at each grain and at random moments, a chain ends as if it had not been."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.bench.kills import Kill, keep

pytestmark = pytest.mark.chain

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"
ROOT = SMOKE.parent.parent
ORDER = ("base", "pretrain", "sft", "dpo", "grpo")
NUM_KILLS = int(os.environ.get("CPT_TEST_KILLS", "3"))

KILL = """
import os, signal

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function, when=lambda *args: True):
    def dying(*args, **kwargs):
        result = function(*args, **kwargs)
        if when(*args):
            die()
        return result
    return dying
"""
# Where a stage is killed, in the order in which it gets there; each run continues the one before.
MOMENTS = {
    "after the first checkpoint": """
from cpt.hooks.trainer import _Hooks
_Hooks._save_checkpoint = then_die(_Hooks._save_checkpoint)
""",
    "in the middle of writing a checkpoint": """
import transformers
transformers.Trainer._save_checkpoint = then_die(transformers.Trainer._save_checkpoint)
""",
    "after training": """
import stages.run
stages.run.trained = then_die(stages.run.trained)
""",
    "in the middle of writing the checkpoint": """
import cpt.checkpoint
cpt.checkpoint.sync = die
""",
    "before the manifest": """
import stages.ending
stages.ending.write_lines = then_die(stages.ending.write_lines)
""",
    "before publishing": """
import stages.run
stages.run.remove_leftovers = then_die(stages.run.remove_leftovers)
""",
    "after publishing": """
import stages.run
stages.run.publish = then_die(stages.run.publish)
""",
    "while probing": """
import eval.probe
eval.probe.write_result = die
""",
    "while reporting": """
import eval.report.write
eval.report.write.write_report = die
""",
}


@pytest.mark.parametrize("stage", ORDER[1:])
def test_a_stage_killed_at_every_grain_continues_and_ends_the_same(
    finished: Any, processes: Any, tmp_path: Path, stage: str
) -> None:
    runs = finished.copy(tmp_path / "runs", until=ORDER[ORDER.index(stage) - 1])
    partial = runs / "stages" / f"{finished.ids[stage]}.partial"
    for moment, code in MOMENTS.items():
        had_checkpoint = sorted(partial.glob("trainer/checkpoint-?/COMPLETE"))
        was_trained = (partial / "checkpoint").is_dir() or (partial / "trained").is_dir()
        ended = processes.smoke(runs, "--until", stage, code=KILL + code)
        assert ended.code == -signal.SIGKILL, f"{moment}:\n{ended.output}"
        if moment == "in the middle of writing a checkpoint":
            assert len(had_checkpoint) == 1
            assert len(list(partial.glob("trainer/checkpoint-*"))) == 2  # the newer one has no mark
        was_published = "publish" in moment and moment.startswith("after")
        if was_trained or was_published or moment.startswith("while"):
            assert f"{stage}: step" not in ended.output, f"{moment}: trained again"
        elif had_checkpoint:
            step = had_checkpoint[-1].parent.name.removeprefix("checkpoint-")
            assert f"{stage}: continuing at step {step} of" in ended.output, moment
            assert f"{stage}: step 1/" not in ended.output
        assert all(f"{other}: step" not in ended.output for other in ORDER if other != stage)
    ended = processes.smoke(runs, "--until", stage)
    assert ended.code == 0, ended.output
    assert ": step" not in ended.output
    assert not partial.exists()
    left = {path.name for path in (runs / "stages" / finished.ids[stage]).iterdir()}
    assert left == {path.name for path in finished.stage(stage).iterdir()}
    finished.assert_equal(runs, stage)


def test_a_base_killed_half_way_is_made_anew(finished: Any, processes: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for code in (
        "import cpt.model_source; cpt.model_source.apply_change = die",
        "from cpt.manifest import Manifest; Manifest.write = die",
        "from cpt.store import Store; Store.publish = die",
    ):
        ended = processes.smoke(runs, "probes=null", "--until", "base", code=KILL + code)
        assert ended.code == -signal.SIGKILL, ended.output
        assert not (runs / "stages" / finished.ids["base"]).exists()
    assert processes.smoke(runs, "--until", "base").code == 0
    finished.assert_equal(runs, "base")


def num_files(runs: Path) -> int:
    """How many files and folders the stages have, while a running chain makes and removes them."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(runs / "stages"))


def is_over(process: Any) -> bool:
    return bool(process.poll() is not None)


class Cold(subprocess.Popen[bytes]):
    """A process that imports everything itself, in a group of its own."""

    def kill(self, target: str = "chain") -> None:
        """SIGKILL to it, or to its group of processes."""
        os.killpg(self.pid, signal.SIGKILL) if target == "group" else super().kill()


class Forked:
    """The processes of `conftest` with the three methods of `Popen` that are used here."""

    def __init__(self, running: Any) -> None:
        self.running = running

    def poll(self) -> int | None:
        """Its exit code, once it has one."""
        code: int | None = self.running.process.exitcode
        return code

    def kill(self, target: str) -> None:
        """SIGKILL to it, or to its group of processes."""
        pid = self.running.process.pid
        if target == "group":
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Its exit code."""
        return int(self.running.wait(timeout).code)


def wait_for(process: Any, is_so: Any, seconds: float = 240) -> None:
    """Until something is so, or the process is over."""
    until = time.monotonic() + seconds
    while not is_over(process) and not is_so():
        assert time.monotonic() < until, "no progress"
        time.sleep(0.005)


def test_killed_at_random_moments_it_ends_with_the_same_weights(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """Moments count in files that appear, not in seconds, so that they fall everywhere in the run.

    Kills are spread over the whole chain: the n-th of N waits for stage n * 4 / N to begin. A chain that
    ends in spite of all is compared, and another begins, of which any stage may be hit. The first process
    is a cold `python -m launch.cli`, the others are forked from one that has imported everything.
    """
    dice = random.Random(int(os.environ.get("CPT_TEST_SEED", "17")))
    runs = tmp_path / "runs-0"
    num_killed, places, kills = 0, list[str](), list[Kill]()
    published: dict[str, str] = {}
    cold = (tmp_path / "cold.txt").open("w+")
    while num_killed < NUM_KILLS:
        number = 1 + num_killed * 4 // NUM_KILLS
        begun = finished.ids[ORDER[number] if runs.name == "runs-0" else dice.choice(ORDER[1:])]
        partial, done = runs / "stages" / f"{begun}.partial", runs / "stages" / begun
        arguments = ["run", str(SMOKE / "chain.yaml"), "--runs", str(runs)]
        process: Any
        if not places:
            process = Cold(
                [sys.executable, "-m", "launch.cli", *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=cold,
                start_new_session=True,
            )
        else:
            process = Forked(processes.start(*arguments, code="import os; os.setsid()"))
        wait_for(process, lambda p=partial, d=done: p.exists() or d.exists())
        goal = num_files(runs) + dice.randint(0, 3 + 60 // NUM_KILLS)
        wait_for(process, lambda r=runs, g=goal: num_files(r) >= g)
        time.sleep(dice.choice([0.0, 0.0, 0.01, 0.05, 0.2, 0.5]))
        places.append("over" if is_over(process) else state(runs, finished.ids))
        target = dice.choice(["chain", "group"])
        if not is_over(process):
            process.kill(target)
        code = process.wait(60)
        now = weights_of(runs)
        assert published.items() <= now.items(), "what was finished is not what it was"
        published = now
        if code == -signal.SIGKILL:
            num_killed += 1
            kills.append(Kill(1, target, places[-1]))
        else:
            assert code == 0
            finished.assert_equal(runs)
            runs, published = tmp_path / f"runs-{len(places)}", {}
    print(*places, sep="\n")  # shown with -s, and when it fails
    said = (tmp_path / "cold.txt").read_text().splitlines()
    assert said
    assert not [line for line in said if not re.match(r"\[\d\d:\d\d\] ", line)]
    ended = processes.smoke(runs)
    assert ended.code == 0, ended.output
    left = {path.name for path in (runs / "stages").iterdir()}
    assert left == set(finished.ids.values())
    assert not list((runs / "stages").glob("*/*.partial"))
    finished.assert_equal(runs)
    keep(kills)


def weights_of(runs: Path) -> dict[str, str]:
    """Stage -> digest of the weights, of all that is published."""
    files = (runs / "stages").glob("*/checkpoint/model.safetensors")
    return {
        file.parent.parent.name: sha256(file.read_bytes()).hexdigest()
        for file in files
        if not file.parent.parent.name.endswith(".partial")
    }


def state(runs: Path, ids: dict[str, str]) -> str:
    """What is there, for people."""
    names = {stage_id: name for name, stage_id in ids.items()}
    parts = []
    for folder in sorted((runs / "stages").glob("*")):
        if folder.name.endswith(".partial"):
            inside = sorted(path.name for path in folder.iterdir())
            checkpoints = sorted(path.name for path in folder.glob("trainer/*"))
            parts.append(f"{names[folder.name.removesuffix('.partial')]}: {inside} {checkpoints}")
    return "; ".join(parts) or f"between stages: {len(list((runs / 'stages').iterdir()))} done"


def interrupted(
    finished: Any,
    processes: Any,
    runs: Path,
    stage: str = "sft",
    code: str = MOMENTS["after the first checkpoint"],
) -> Path:
    """Make a runs folder in which a stage was killed, behind its first trainer checkpoint unless said.

    Returns: what the stage left.
    """
    finished.copy(runs, until=ORDER[ORDER.index(stage) - 1])
    assert processes.smoke(runs, "--until", stage, code=KILL + code).code == -signal.SIGKILL
    return runs / "stages" / f"{finished.ids[stage]}.partial"


def test_another_topology_does_not_continue(finished: Any, processes: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    file = interrupted(finished, processes, runs) / "topology.json"
    began = json.loads(file.read_text()) | {"backend": "ddp", "size": 2}
    file.write_text(json.dumps(began))
    ended = processes.smoke(runs, "--until", "sft")
    assert ended.code == 1
    assert ended.output.endswith(
        f"cpt: {finished.ids['sft']}.partial: began on ddp with 2 processes and would continue on "
        f"single with 1; use the same, or --restart to begin anew\n"
    )
    assert json.loads(file.read_text()) == began
    ended = processes.smoke(runs, "--until", "sft", "--restart")
    assert ended.code == 0, ended.output
    assert "sft: step 1/" in ended.output
    finished.assert_equal(runs, "sft")


def test_a_checkpoint_without_our_mark_is_not_used(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    """transformers writes checkpoints in place: one that is half there looks like any other."""
    runs = tmp_path / "runs"
    trainer = interrupted(finished, processes, runs) / "trainer"
    half = shutil.copytree(trainer / "checkpoint-2", trainer / "checkpoint-4")
    (half / "COMPLETE").unlink()
    (half / "model.safetensors").write_bytes(b"half")
    ended = processes.smoke(runs, "--until", "sft")
    assert ended.code == 0, ended.output
    assert "sft: continuing at step 2 of 6" in ended.output
    finished.assert_equal(runs, "sft")
