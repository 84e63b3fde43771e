"""Looks with a suite that reads and writes change no bit of what is trained, however it trains."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import stages.run as runner
from cpt.past import of_folder
from cpt.watch import WatchSpec
from eval.progress import Meter
from eval.suite import load_suite
from launch.console import Console
from launch.watching import looker
from stages.base import Job
from stages.watch import FOLDER
from stages.watch import read as looks_of
from tests.reading_suite import add_answers, numbered, write_suite
from tests.tiny_stages import Interrupted, TinyStages, equal, read
from tests.two_processes import run_on_two

pytestmark = pytest.mark.chain

WHOLE = {"gradient_checkpointing": True}
ADAPTED = {"lora": {"rank": 2, "dropout": 0.2}}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = write_suite(tmp_path, "both", numbered(range(12)), metric="bits_per_byte")
    return add_answers(file, numbered(range(5)))


def watched(job: Job, suite: Path) -> Job:
    """After every step, and with all that looks can measure."""
    watch = WatchSpec(every=1, prompts=4, suite=str(suite))
    return replace(job, spec=job.spec.model_copy(update={"watch": watch}))


def run(job: Job) -> None:
    runner.run(job, lambda line: None, make_look=partial(looker, job, Console()))


def ruined(stages: TinyStages, suite: Path, num_processes: int) -> Job:
    """A stage that its first look ends."""
    train: dict[str, Any] = {"learning_rate": 30.0, "max_grad_norm": 1.0}
    job = stages.job("pretrain", parent=stages.base, num_processes=num_processes, **train)
    watch = WatchSpec(every=2, early=False, prompts=0, suite=str(suite), stop=True, margin=0.05)
    return replace(job, spec=job.spec.model_copy(update={"watch": watch}))


@pytest.mark.parametrize(
    ("kind", "hooks", "train"),
    [
        ("sft", {}, WHOLE),
        ("sft", ADAPTED, WHOLE),
        ("sft", {}, {"bf16": True}),
        ("dpo", {}, {}),
        ("grpo", {}, {}),
        ("grpo", ADAPTED, {}),
    ],
    ids=str,
)
def test_the_weights_are_the_same(
    kind: str, hooks: dict[str, Any], train: dict[str, Any], suite: Path, stages: TinyStages
) -> None:
    plain = stages.train(stages.job(kind, hooks, **train))
    job = watched(stages.job(kind, hooks, **train), suite)
    run(job)
    found = read(job)
    assert equal(found.weights, plain.weights)
    losses = [[line["loss"] for line in each.log if "loss" in line] for each in (found, plain)]
    assert losses[0] == losses[1]
    config, other = (
        json.loads((each.job.output / "checkpoint" / "config.json").read_text())
        for each in (found, plain)
    )
    assert config == other
    assert found.manifest["seconds"]["look"] > 0
    rows = looks_of(job.output)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert all({"kl", "probe/reads", "probe/writes"} <= row.keys() for row in rows)


def test_on_two_processes_too(suite: Path, stages: TinyStages, tmp_path: Path) -> None:
    jobs = []
    for kind in ("sft", "grpo"):
        plain, other = (stages.job(kind, num_processes=2) for _ in range(2))
        jobs += [plain, watched(other, suite)]
    ended = [ruined(stages, suite, number) for number in (2, 1)]
    ranks = run_on_two([*jobs, ended[0]], tmp_path)
    for number in (0, 2):
        unseen, seen = (read(job).weights for job in jobs[number : number + 2])
        assert equal(seen, unseen)
        digests = {rank["weights"] for job in ranks[number : number + 2] for rank in job}
        assert len(digests) == 1
        rows = looks_of(jobs[number + 1].output)
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
        assert all({"kl", "probe/reads", "probe/writes"} <= row.keys() for row in rows)
    # A stage that a look ended leaves what it leaves on one process.
    run(ended[1])
    two, one = (read(job).manifest for job in ended)
    assert two["num_steps"] == one["num_steps"] == 2
    assert two["data"] == one["data"]
    assert of_folder(ended[0].output)[-1].rows() == of_folder(ended[1].output)[-1].rows()


def test_a_look_that_is_killed_is_taken_again(
    suite: Path, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of its answers, and with its result half written; nothing else changes."""
    whole = watched(stages.job("sft", checkpoint_every=1), suite)
    run(whole)
    job = watched(stages.job("sft", checkpoint_every=1), suite)
    step = Meter.step

    def killed(meter: Meter, count: int = 1) -> None:
        if "writes" in meter.name and (job.partial / "trainer" / "checkpoint-2").is_dir():
            raise Interrupted
        step(meter, count)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "step", killed)
        with pytest.raises(Interrupted):
            run(job)
    known = load_suite(suite)
    results = job.partial / FOLDER / f"{known.name}-{known.hash}"
    assert sorted(file.name for file in results.iterdir()) == [
        f"step-{step:06d}.json" for step in range(3)
    ]
    # What another kill leaves: a half file, and looks behind the checkpoint, of another schedule too.
    (results / ".step-000003.json.77.partial").write_text('{"probes": {"rea')
    for behind in (3, 7):
        (results / f"step-{behind:06d}.json").write_text("{}")
    with (job.partial / FOLDER / "watch.jsonl").open("a") as file:
        file.write('{"step": 3.0, "kl": 9')
    run(job)
    assert equal(read(job).weights, read(whole).weights)
    assert looks_of(job.output) == looks_of(whole.output)
    left, expected = (
        sorted(file.name for file in (each.output / FOLDER / results.name).iterdir())
        for each in (job, whole)
    )
    assert left == expected == [f"step-{step:06d}.json" for step in range(5)]
