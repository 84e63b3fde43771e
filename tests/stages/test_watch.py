"""Looks at a model while it trains see what is there, and change nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stages.ending as ending
import stages.look_cost as look_cost
import stages.run as runner
import stages.training as training
from cpt.data_spec import DataSpec
from cpt.errors import ProbeError
from cpt.hooks.context import Mixture, StageContext
from cpt.hooks.replay import Replay
from cpt.hooks.trainer import _Hooks
from cpt.past import of_folder
from cpt.watch import WatchSpec
from cpt.world import World
from stages.base import Job
from stages.drift import Drift
from stages.watch import FOLDER
from stages.watch import read as looks_of
from tests.tiny_stages import Interrupted, TinyStages, equal, read

pytestmark = pytest.mark.chain


def watched(job: Job, stages: TinyStages, **settings: Any) -> Job:
    text = DataSpec.model_validate(stages.data("general"))
    given = {"every": 2, "early": False, "prompts": 4, "text": text, "texts": 8, **settings}
    return replace(job, spec=job.spec.model_copy(update={"watch": WatchSpec(**given)}))


def seen(steps: list[int], stop_at: int | None = None) -> Any:
    """What stands in for a suite: notes the steps, and wants to stop at one."""

    def make(num_steps: int) -> Any:
        def look(model: Any, tokenizer: Any, step: int, folder: Path) -> Any:
            import torch

            assert not model.training
            torch.rand(3)  # what a probe draws does not move the stage's own generator
            steps.append(step)
            return {"facts": step / 10}, "facts fell" if step == stop_at else ""

        return look

    return make


@pytest.mark.parametrize("kind", ["pretrain", "sft", "dpo", "grpo"])
def test_looks_change_nothing_and_are_kept(kind: str, stages: TinyStages) -> None:
    plain = stages.train(stages.job(kind))
    job = watched(stages.job(kind), stages)
    steps: list[int] = []
    runner.run(job, lambda line: None, make_look=seen(steps))
    assert equal(read(job).weights, plain.weights)
    assert steps == [0, 2, 4]
    rows = looks_of(job.output)
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert [row["probe/facts"] for row in rows] == [0.0, 0.2, 0.4]
    assert all(row["kl"] > 0 for row in rows)  # the sft stage is not the base model
    of_base = [row["general_loss"] - row["general_loss_rise"] for row in rows]
    assert of_base == pytest.approx([of_base[0]] * 3)


def test_the_base_model_has_not_drifted(stages: TinyStages) -> None:
    job = watched(stages.job("pretrain", parent=stages.base, learning_rate=1.0), stages)
    runner.run(job, lambda line: None)
    first, *rest = looks_of(job.output)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert first["general_loss_rise"] == pytest.approx(0, abs=1e-6)
    assert all(row["kl"] > 1e-4 for row in rest)


def test_the_kl_is_that_of_the_whole_distributions(stages: TinyStages) -> None:
    import torch

    from cpt.checkpoint import load_model, load_tokenizer

    base, model = (load_model(str(f / "checkpoint")) for f in (stages.base, stages.sft.output))
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    drift = Drift(base.eval(), tokenizer, [[5, 6, 7], [9]], [], seed=1)
    expected = 0.0
    with torch.no_grad():
        for whole, _, prompt in drift.answered:
            logs = [
                one(input_ids=whole).logits[0, prompt - 1 : -1].double().log_softmax(-1)
                for one in (base, model.eval())
            ]
            assert len(logs[0]) == whole.shape[1] - prompt > 0
            expected += float((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()) / 2
    assert drift.look(model)["kl"] == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3


def test_a_stage_ends_where_a_look_says_so(stages: TinyStages) -> None:
    job = watched(stages.job("sft"), stages, stop=True)
    said: list[str] = []
    runner.run(job, said.append, make_look=seen([], stop_at=2))
    ended = read(job)
    assert ended.manifest["num_steps"] == 2
    assert ended.manifest["checks"]["stopped_at"] == 2
    assert "watch ended the stage at step 2 of 4" in ended.manifest["notes"]
    assert any("watch: ends the stage at step 2: facts fell" in line for line in said)
    # A look that only looks tells, and goes on.
    job = watched(stages.job("sft"), stages)
    runner.run(job, said.append, make_look=seen([], stop_at=2))
    assert read(job).manifest["num_steps"] == 4
    assert any("watch: step 2: facts fell" in line for line in said)


@pytest.mark.parametrize("kind", ["pretrain", "sft", "grpo"])
def test_a_stage_that_ended_early_leaves_what_it_trained_on(
    kind: str, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has the tokens, and replay the rows, of a stage that was meant to be so short."""
    batches: list[Any] = []
    taken = _Hooks.get_batch_samples

    def spy(*given: Any, **named: Any) -> Any:
        found = taken(*given, **named)
        batches.extend(found[0])
        return found

    job = watched(stages.job(kind), stages, stop=True)
    with monkeypatch.context() as patch:
        patch.setattr(_Hooks, "get_batch_samples", spy)
        runner.run(job, lambda line: None, make_look=seen([], stop_at=2))
    manifest, past = read(job).manifest, of_folder(job.output)
    short = stages.train(stages.job(kind, max_steps=2))
    assert manifest["data"] == short.manifest["data"]
    rows = past[-1].rows()
    assert rows == of_folder(short.job.output)[-1].rows()
    if kind == "grpo":  # two prompts a step, each answered four times
        trained = {row["answer"] for batch in batches for row in batch}
        assert trained == {row["answer"] for row in rows}
        assert past[-1].num_seen == len(trained) == 4
        return
    (entry,) = manifest["data"]
    masks = [batch.get("attention_mask", batch["input_ids"] >= 0) for batch in batches]
    assert entry["seen_tokens"] == sum(int(mask.sum()) for mask in masks)
    assert past[-1].num_seen == len(rows) < 24
    if kind == "sft":
        assert len(rows) == 2 * 8
    ctx = StageContext("next", "sft", ("text", "messages"), 3, World(), "")
    hook = Replay(of="previous", share=0.5)
    hook.recall(past, ctx)
    mixture = hook.mix(Mixture([]), ctx)
    assert mixture.old[0].rows == rows


def test_an_interrupted_stage_ends_at_the_same_step(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a checkpoint was due at the step at which it ended."""
    whole = watched(stages.job("sft", checkpoint_every=1), stages, stop=True)
    runner.run(whole, lambda line: None, make_look=seen([], stop_at=2))
    job = watched(stages.job("sft", checkpoint_every=1), stages, stop=True)

    def killed(*given: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(ending, "save_checkpoint", killed)
        patch.setattr(training, "save_trained", killed)
        with pytest.raises(Interrupted):
            runner.run(job, lambda line: None, make_look=seen([], stop_at=2))
    assert not (job.output / "manifest.json").exists()
    steps: list[int] = []
    runner.run(job, lambda line: None, make_look=seen(steps, stop_at=2))
    assert equal(read(job).weights, read(whole).weights)
    assert steps == [2]  # continued behind step 1
    assert [row["step"] for row in looks_of(job.output)] == [0, 2]


def test_looks_that_cost_much_are_told_of_early(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_cost, "LITTLE", 0.0)
    monkeypatch.setattr(look_cost, "DEAR", 1e-9)
    said: list[str] = []
    job = watched(stages.job("sft"), stages, every=1)
    runner.run(job, said.append, make_look=seen([]))
    told = next(number for number, line in enumerate(said) if "watch: 5 looks of" in line)
    assert not any("step 3/4" in line for line in said[:told])  # after the second step
    notes = read(job).manifest["notes"]
    assert any(note.startswith("watch: 5 looks of") for note in notes)


def test_answers_are_drawn_from_the_base_models_own_distribution(stages: TinyStages) -> None:
    """Not from what its generation config, made for answering people, bends it to."""
    from transformers import GenerationConfig

    from cpt.checkpoint import load_model, load_tokenizer

    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    prompts = [[5, 6, 7], [9, 8]]
    drawn = []
    bent = GenerationConfig(
        repetition_penalty=5.0,
        min_p=0.5,
        top_p=0.1,
        temperature=0.1,
        no_repeat_ngram_size=1,
        suppress_tokens=[*range(40)],
        bad_words_ids=[[50]],
    )
    for config in (GenerationConfig(), bent):
        base = load_model(str(stages.base / "checkpoint")).eval()
        base.generation_config = config
        drift = Drift(base, tokenizer, prompts, [], seed=1)
        assert base.generation_config is config
        drawn.append([whole.tolist() for whole, _, _ in drift.answered])
    assert drawn[0] == drawn[1]


def test_a_look_without_a_usable_number_ends_no_stage(stages: TinyStages) -> None:
    def make(num_steps: int) -> Any:
        def look(*given: Any) -> Any:
            raise ProbeError("probe reads: acc is nan, not a finite number")

        return look

    said: list[str] = []
    job = watched(stages.job("sft"), stages)
    runner.run(job, said.append, make_look=make)
    assert read(job).manifest["num_steps"] == 4
    assert all("kl" in row and "probe/facts" not in row for row in looks_of(job.output))
    assert any("watch: step 2: no scores: probe reads: acc is nan" in line for line in said)
    with pytest.raises(ProbeError):
        runner.run(watched(stages.job("sft"), stages, stop=True), said.append, make_look=make)


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    assert looks_of(tmp_path) == []
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "watch.jsonl").write_text('{"step": 2.0, "kl": 1.0}\n{"step": 4.0, "k')
    assert looks_of(tmp_path) == [{"step": 2.0, "kl": 1.0}]
