"""Where the trainer's reports go, and that an interrupted stage goes on in the same run."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stages.base import Job
from stages.reporting import EVENTS, reporting
from tests.tiny_stages import Interrupted, TinyStages


@pytest.mark.chain
def test_events_of_tensorboard_stay_with_the_stage(stages: TinyStages) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = replace(stages.job("sft", checkpoint_every=2), trackers=("tensorboard",))
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    trained = stages.train(job)
    assert not (job.output / "trainer").exists()
    events = EventAccumulator(str(job.output / EVENTS)).Reload()
    last = {event.step: event.value for event in events.Scalars("train/loss")}
    expected = {int(row["step"]): row["loss"] for row in trained.log if "loss" in row}
    assert last == pytest.approx(expected)
    assert [*expected] == [1, 2, 3, 4]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def job_of(tmp_path: Path, *trackers: str) -> Job:
    partial = tmp_path / "sft-1.partial"
    partial.mkdir(exist_ok=True)
    output: Any = tmp_path / "sft-1"
    return Job("sft", "sft-1", None, 1, "", {}, output, {}, {}, trackers=trackers)  # type: ignore[arg-type]


def test_what_a_person_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    with reporting(job_of(tmp_path), is_main=True):
        assert os.environ["WANDB_RUN_GROUP"] == "mine"
        assert os.environ["WANDB_RUN_ID"] == "sft-1"
        assert os.environ["WANDB_RESUME"] == "allow"
    assert os.environ["WANDB_RUN_GROUP"] == "mine"
    assert "WANDB_RUN_ID" not in os.environ


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What stand-ins for wandb and mlflow are called with; a run is open once it was begun."""
    found: list[Any] = []
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    state: dict[str, Any] = {"mlflow": None}

    def start_run(**settings: Any) -> Any:
        found.append(("begin", settings))
        info = SimpleNamespace(run_id=settings.get("run_id", "0123abcd"))
        state["mlflow"] = SimpleNamespace(info=info)
        return state["mlflow"]

    def end_run() -> None:
        found.append(("end",))
        state["mlflow"] = None

    vars(mlflow).update(start_run=start_run, end_run=end_run, active_run=lambda: state["mlflow"])
    vars(wandb).update(run="open", finish=lambda: found.append(("finish",)))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return found


def test_the_next_stage_of_a_process_has_a_run_of_its_own(tmp_path: Path, calls: list[Any]) -> None:
    """The integration of wandb leaves its run open, and writes into one that it finds."""
    with reporting(job_of(tmp_path, "wandb"), is_main=True):
        assert calls == []
    assert calls == [("finish",)]
    with pytest.raises(Interrupted), reporting(job_of(tmp_path, "wandb"), is_main=True):
        raise Interrupted
    assert len(calls) == 2


def test_an_interrupted_stage_is_one_run_of_mlflow(tmp_path: Path, calls: list[Any]) -> None:
    job = job_of(tmp_path, "mlflow")
    with pytest.raises(Interrupted), reporting(job, is_main=True):
        raise Interrupted
    with reporting(job, is_main=True):
        pass
    assert calls == [
        ("begin", {"run_name": "sft-sft-1", "tags": {"cpt.stage": "sft-1"}}),
        ("end",),
        ("begin", {"run_id": "0123abcd"}),
        ("end",),
    ]


def test_only_the_main_process_reports(tmp_path: Path, calls: list[Any]) -> None:
    with reporting(job_of(tmp_path, "wandb", "mlflow"), is_main=False):
        pass
    assert calls == []
