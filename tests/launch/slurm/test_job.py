"""The script of a job: it passes signals on, requeues what was pre-empted, and only that."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import CptError, PlanError, RecipeError
from launch.opening import Chain, open_chain
from launch.slurm import render
from launch.slurm.render import SlurmJob, jobs
from launch.slurm.settings import Cluster
from launch.slurm.submit import commands, submit, write

ROOT = Path(__file__).parents[3]
SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"
# Quotes, blanks and signs that a shell would read.
ODD = 'it\'s "odd" $HOME `x` \\ #'


def stand_in(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return open_chain(SMOKE, [], tmp_path / ODD / "runs")


def rendered(chain: Chain, cluster: Cluster | None = None, per_stage: bool = False) -> Any:
    folder = chain.store.root.parent
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [str(SMOKE), "probes=null", "--runs", str(chain.store.root)]
    made = jobs(chain, cluster or Cluster(), arguments, folder, per_stage)
    write(made)
    return made


FULL = Cluster(
    time="04:00:00",
    partition="gpu",
    account="a-1",
    qos="low",
    constraint="a100|h100",
    gpus=1,
    cpus=8,
    memory="64G",
    exclusive=True,
    signal=90,
    max_requeues=3,
    modules=["cuda/12.4"],
    environment={"HF_HOME": "/scratch/o'neil $x"},
    options={"mail-type": "END", "overcommit": None},
)


class TestScript:
    def test_it_asks_for_what_the_cluster_says(self, chain: Chain) -> None:
        (job,) = rendered(chain, FULL)
        asked = [line for line in job.script.splitlines() if line.startswith("#SBATCH ")]
        place = str(job.file.parent).replace("\\", "\\\\").replace('"', '\\"')
        assert [line.removeprefix("#SBATCH ") for line in asked] == [
            "--job-name=smoke",
            "--nodes=1",
            "--ntasks=1",
            "--partition=gpu",
            "--account=a-1",
            "--qos=low",
            '--constraint="a100|h100"',
            "--gpus-per-node=1",
            "--cpus-per-task=8",
            "--mem=64G",
            "--time=04:00:00",
            "--exclusive",
            "--signal=B:USR1@90",
            "--requeue",
            "--open-mode=append",
            f'--output="{place}/%x-%j.log"',
            "--mail-type=END",
            "--overcommit",
        ]
        assert "module load cuda/12.4\nexport CPT_GRACE=60\nexport HF_HOME=" in job.script

    @pytest.mark.parametrize("cluster", [Cluster(), FULL])
    def test_a_shell_and_shellcheck_find_nothing_wrong(
        self, chain: Chain, cluster: Cluster
    ) -> None:
        (job,) = rendered(chain, cluster)
        subprocess.run(["bash", "-n", job.file], check=True)
        found = subprocess.run(
            [Path(sys.executable).with_name("shellcheck"), job.file], capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout

    def test_paths_and_overrides_reach_the_command_as_they_are(
        self, chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        said = tmp_path / "said"
        run = stand_in(tmp_path, "python", f'pwd > {said}; printf "%s\\n" "$@" >> {said}')
        monkeypatch.setattr(render, "sys", SimpleNamespace(executable=str(run)))
        (job,) = rendered(chain)
        assert script(job, tmp_path).wait(20) == 0
        folder = chain.store.root.parent
        told = [str(folder), "-P", "-m", "launch.cli", "run", str(SMOKE), "probes=null", "--runs"]
        assert said.read_text().splitlines() == [*told, str(chain.store.root)]

    def test_a_path_that_slurm_would_change_is_refused(self, chain: Chain) -> None:
        for odd in ("a%j", "a\nb"):
            moved = replace(chain, store=type(chain.store)(Path("/tmp") / odd))
            with pytest.raises(RecipeError, match="would not read this path"):
                jobs(moved, Cluster(), [], Path("/tmp"), per_stage=False)

    def test_a_credential_is_not_written(self, chain: Chain) -> None:
        with pytest.raises(RecipeError, match="would hold a credential") as error:
            rendered(chain, Cluster(environment={"A": "hf_abcdefghijklmnopqrstuvw"}))
        assert "hf_abc" not in str(error.value)
        assert not (chain.store.root / "slurm").exists()

    def test_gpus_must_be_those_of_the_chain(self, chain: Chain) -> None:
        with pytest.raises(PlanError, match=r"gpus: 8: single trains on 1; write gpus: 1, or num_"):
            rendered(chain, Cluster(gpus=8))


def script(job: SlurmJob, folder: Path, **variables: str) -> "subprocess.Popen[str]":
    """The job's script as a batch step runs it, with a scontrol that notes what it is asked."""
    state = variables.pop("state", "RUNNING")
    answer = f'echo "JobId=7 JobName=x JobState={state} Reason=None"'
    body = f'echo "$@" >> {folder}/asked; [ "$1" != show ] || {answer}'
    stand_in(folder / "bin", "scontrol", body)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(job.file)],
        env={**os.environ, "PATH": path, "SLURM_JOB_ID": "7", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def asked(folder: Path) -> list[str]:
    file = folder / "asked"
    return file.read_text().splitlines() if file.exists() else []


SHOW = "show job --oneliner 7"


class TestRunning:
    """A stand-in for `cpt run`, whose only part here is how it ends."""

    @pytest.fixture
    def job(self, chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        def make(body: str, **settings: Any) -> SlurmJob:
            run = stand_in(tmp_path, "python", body)
            monkeypatch.setattr(render, "sys", SimpleNamespace(executable=str(run)))
            made: SlurmJob = rendered(chain, Cluster(**settings))[0]
            return made

        return make

    @pytest.mark.parametrize("code", [0, 1, 2, 3, 137])
    def test_what_ends_by_itself_is_not_requeued(self, job: Any, tmp_path: Path, code: int) -> None:
        assert script(job(f"exit {code}"), tmp_path).wait(20) == code
        assert asked(tmp_path) == []

    @pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
    def test_a_signal_is_passed_on_and_what_it_ends_is_requeued(
        self, job: Any, tmp_path: Path, number: signal.Signals
    ) -> None:
        ready = shlex.quote(str(tmp_path / "ready"))
        # It takes its time to save, as a run does; and is told once.
        body = f"trap 'sleep 0.5; exit 4' USR1; touch {ready}; while true; do sleep 0.05; done"
        running = script(job(body), tmp_path)
        wait_for(tmp_path / "ready")
        running.send_signal(number)
        assert running.wait(20) == 4
        assert asked(tmp_path) == [SHOW, "requeue 7"]

    def test_told_before_it_listens_it_is_requeued(self, job: Any, tmp_path: Path) -> None:
        ready = shlex.quote(str(tmp_path / "ready"))
        running = script(job(f"touch {ready}; exec sleep 20"), tmp_path)
        wait_for(tmp_path / "ready")
        time.sleep(0.2)
        running.send_signal(signal.SIGUSR1)
        assert running.wait(10) == 4
        assert asked(tmp_path) == [SHOW, "requeue 7"]

    @pytest.mark.parametrize(("count", "most"), [("3", 3), ("4", 3), ("0", 0)])
    def test_not_for_ever(self, job: Any, tmp_path: Path, count: str, most: int) -> None:
        running = script(job("exit 4", max_requeues=most), tmp_path, SLURM_RESTART_COUNT=count)
        assert running.communicate(timeout=20)[1] == (
            f"slurm: requeued {count} times, which is the most; the same command continues\n"
        )
        assert (running.returncode, asked(tmp_path)) == (4, [])

    def test_a_cancelled_job_stays_cancelled(self, job: Any, tmp_path: Path) -> None:
        running = script(job("exit 4"), tmp_path, state="CANCELLED")
        assert "not requeued" in running.communicate(timeout=20)[1]
        assert (running.returncode, asked(tmp_path)) == (4, [SHOW])


def wait_for(file: Path) -> None:
    until = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


class TestSubmitting:
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in(tmp_path / "bin", "sbatch", self.body(tmp_path))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def body(self, folder: Path) -> str:
        count = f"$(cat {folder}/sbatch | wc -l)"
        return f'echo "$@" >> {folder}/sbatch; echo "$((100 + {count}));main"'

    def test_one_job(self, chain: Chain, tmp_path: Path) -> None:
        made = rendered(chain)
        assert submit(made) == ["101"]
        assert (tmp_path / "sbatch").read_text() == f"--parsable {made[0].file}\n"
        assert made[0].file == chain.store.root / "slurm" / "smoke" / "chain.sbatch"

    def test_a_job_for_each_stage_waits_for_the_one_before(
        self, chain: Chain, tmp_path: Path
    ) -> None:
        made = rendered(chain, per_stage=True)
        assert [job.name for job in made] == [
            "smoke-pretrain",
            "smoke-sft",
            "smoke-dpo",
            "smoke-grpo",
        ]
        for job in made:
            command = next(line for line in job.script.splitlines() if line.endswith(" &"))
            until = shlex.split(command)[-3:-1]
            assert until == ["--until", job.name.removeprefix("smoke-")]
        assert submit(made) == ["101", "102", "103", "104"]
        told = (tmp_path / "sbatch").read_text().splitlines()
        behind = [
            line.removeprefix("--parsable ").partition(str(chain.store.root))[0] for line in told
        ]
        after = "--dependency=afterok:{} --kill-on-invalid-dep=yes "
        assert behind == ["", *(after.format(number) for number in (101, 102, 103))]
        # What a person types does the same.
        typed = "\n".join([f"rm {tmp_path}/sbatch", *commands(made)])
        subprocess.run(["bash", "-euc", typed], check=True)
        assert (tmp_path / "sbatch").read_text().splitlines() == told

    def test_a_job_that_is_refused_says_what_is_queued(self, chain: Chain, tmp_path: Path) -> None:
        body = f'[ -e {tmp_path}/sbatch ] && echo "no such partition" >&2 && exit 1'
        stand_in(tmp_path / "bin", "sbatch", f"{body}\n{self.body(tmp_path)}")
        with pytest.raises(CptError) as error:
            submit(rendered(chain, per_stage=True))
        assert "2-sft.sbatch: no such partition; in the queue are: 101 (scancel" in str(error.value)

    def test_without_sbatch_that_is_told(
        self, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(CptError, match="sbatch: there is no such command here"):
            submit(rendered(chain))
