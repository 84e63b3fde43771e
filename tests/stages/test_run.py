"""What a stage notices about itself while it runs, from its first step to its manifest."""

import json
from typing import Any

import pytest

import stages.run as runner
import stages.under_way as under_way
from tests.tiny_stages import Interrupted, TinyStages, read

pytestmark = pytest.mark.chain


def chats(stages: TinyStages, name: str, answer: str) -> dict[str, Any]:
    """Questions that all have this answer."""
    rows = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": answer}]
        for n in range(16)
    ]
    file = stages.root / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return {"path": str(file)}


def test_a_model_that_no_longer_stops_is_warned_of(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taught to end at once, then on answers whose end is cut off."""
    monkeypatch.setattr(under_way, "NUM_SAMPLES", 8)
    fast: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 0.03, "max_steps": 12}
    said: list[str] = []

    def train(job: Any) -> dict[str, Any]:
        runner.run(job, said.append)
        return read(job).manifest

    brief = stages.job("sft", data=chats(stages, "brief", ""), **fast)
    first = train(brief)
    assert first["checks"]["eos_rate_before"] < first["checks"]["eos_rate_after"] == 1
    assert not any("EOS" in note for note in [*first["notes"], *said])

    endless = stages.job(
        "sft", parent=brief.output, data=chats(stages, "endless", "a" * 200), **fast
    )
    second = train(endless)
    assert second["checks"]["eos_rate_before"] == 1
    assert second["checks"]["eos_rate_after"] == 0
    (note,) = (note for note in second["notes"] if "EOS" in note)
    assert note.startswith("EOS: 0% of sample answers end, 100% did before")
    assert f"sft: note: {note}" in said


def test_embeddings_that_no_token_has_are_kept_in_the_manifest(stages: TinyStages) -> None:
    """Models that pad their vocabulary may train; what is spare is told."""
    from cpt.checkpoint import load_model, load_tokenizer

    start = str(stages.base / "checkpoint")
    model, tokenizer = load_model(start), load_tokenizer(start)
    model.resize_token_embeddings(len(tokenizer) + 5, mean_resizing=False)
    padded = stages.root / "padded"
    model.save_pretrained(padded)
    tokenizer.save_pretrained(padded)
    trained = stages.train(stages.job("sft", parent=padded, max_steps=1))
    assert trained.manifest["checks"]["embeddings_without_token"] == 5
    again = stages.train(stages.job("sft", max_steps=1))
    assert "embeddings_without_token" not in again.manifest["checks"]


def test_a_stage_continues_from_the_checkpoint_before_a_damaged_one(stages: TinyStages) -> None:
    whole = stages.train(stages.job("sft", checkpoint_every=1))
    job = stages.job("sft", checkpoint_every=1)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=4)
    older, newer = sorted((job.partial / "trainer").glob("checkpoint-*"))  # earlier ones are gone
    optimizer = newer / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1] + b"?")
    said: list[str] = []
    runner.run(job, said.append)
    assert (
        f"sft: {newer.name}/optimizer.pt of the trainer is damaged, and is not continued from"
        in said
    )
    step = older.name.removeprefix("checkpoint-")
    assert f"sft: continuing at step {step} of 4" in said
    files, expected = read(job).manifest["files"], dict(whole.manifest["files"])
    del files["metrics.jsonl"], expected["metrics.jsonl"]  # with seconds in them
    assert files == expected
