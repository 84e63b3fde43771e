"""metrics.jsonl is there while a stage trains, and an interruption leaves no trace in it."""

import json
from typing import Any

import pytest

from stages.metrics import FILE, line
from tests.tiny_stages import Interrupted, TinyStages

TIMES = ("runtime", "per_second", "step_time", "/s")


def without_times(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {name: value for name, value in entry.items() if not any(part in name for part in TIMES)}
        for entry in log
    ]


def test_a_line_has_the_numbers_of_an_entry() -> None:
    assert json.loads(line({"loss": 1, "step": 2, "sample": "text"})) == {"loss": 1.0, "step": 2.0}
    assert line({"train_runtime": 3.0, "step": 4}) == ""


@pytest.mark.parametrize("kind", ["pretrain", "sft", "dpo", "grpo"])
def test_an_interrupted_stage_leaves_the_lines_of_an_uninterrupted_one(
    kind: str, stages: TinyStages
) -> None:
    """A checkpoint amid a window of the log, and lines behind it that the stage logs again."""
    settings: dict[str, Any] = {"checkpoint_every": 2, "logging_steps": 3, "max_steps": 6}
    if kind == "sft":  # with a held-out loss
        settings["data"] = {**stages.data("chats"), "validation": {"fraction": 0.25}}
    whole = stages.train(stages.job(kind, **settings)).log
    job = stages.job(kind, **settings)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=6)
    live = (job.partial / FILE).read_text()
    assert [json.loads(text)["step"] for text in live.splitlines() if "loss" in text][-1] >= 4
    with (job.partial / FILE).open("a") as file:
        file.write('{"step": 5.0, "lo')  # cut off by a kill
    assert without_times(stages.train(job).log) == without_times(whole)
    steps = [entry["step"] for entry in whole if "loss" in entry]
    assert steps == [2, 3, 4, 6]
    assert [entry["step"] for entry in whole if "eval_loss" in entry] == [0, 6] * (kind == "sft")


def test_each_step_is_written_when_it_is_logged(stages: TinyStages) -> None:
    job = stages.job("sft", {"kl": {"beta": 0.1}})
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    logged = [json.loads(text) for text in (job.partial / FILE).read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2]
    assert all({"loss", "hook/kl", "num_tokens"} <= entry.keys() for entry in logged)
