"""Joint training is training on the rows of all its stages, shuffled together: rows, steps, loss, weights."""

from dataclasses import replace
from typing import Any

import pytest

from cpt.checkpoint import load_tokenizer
from cpt.hooks.context import StageContext
from cpt.hooks.stack import HookStack
from cpt.joint import Joined
from cpt.recipe import HygieneSpec
from cpt.world import World
from launch.job_file import job_from_json, job_to_json
from stages import kind_of
from stages.base import Job
from stages.material import stage_supply
from stages.supply import Supply
from tests.tiny_stages import TinyStages, difference, log_probabilities


def supplied(job: Job, tokenizer: Any) -> Supply:
    """What a job trains on."""
    kind = kind_of(job.spec.kind, "")
    ctx = StageContext(job.name, kind.name, kind.formats, job.seed, World(), "")
    job.partial.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    return stage_supply(job, kind, HookStack([], ctx), tokenizer, World(), said.append)


def joint(job: Job, *earlier: Job) -> Job:
    """A job that also trains on the rows of earlier ones, and starts where its parent is."""
    joined = [Joined(f"{each.name}-{n}", each.spec, each.seed) for n, each in enumerate(earlier)]
    return replace(job, joined=(*joined, Joined(job.name, job.spec, job.seed)))


def rows(supply: Supply) -> list[tuple[tuple[int, ...], ...]]:
    """(ids, labels) of every row, sorted."""
    return sorted((tuple(row["input_ids"]), tuple(row["labels"])) for row in supply.train)


@pytest.mark.parametrize("packing", [False, True])
def test_its_rows_are_those_of_its_stages_each_once_and_shuffled(
    packing: bool, stages: TinyStages, tiny_tokenizer: Any
) -> None:
    pretrain = stages.job("pretrain", max_steps=2)
    talks = stages.job("sft", data=stages.data("talks"), max_steps=3, seed=9)
    sft = stages.job("sft", max_steps=2, packing=packing)
    each = [supplied(job, tiny_tokenizer) for job in (pretrain, talks, sft)]
    both = supplied(joint(replace(sft, id="joint"), pretrain, talks), tiny_tokenizer)
    assert rows(both) == sorted(row for supply in each for row in rows(supply))
    assert both.num_steps == sum(supply.num_steps for supply in each) == 7
    # Documents stay apart in packed rows, and shorter rows are one piece.
    for row in both.train:
        assert sum(row["seq_lengths"]) == len(row["input_ids"])
    order = [len(row["input_ids"]) == 64 for row in both.train]
    assert order != sorted(order)
    assert order != sorted(order, reverse=True)
    # Each stage's data keep the tokens that they have in the chain.
    for entry, name in zip(both.description, ("pretrain-0", "sft-1", "sft"), strict=True):
        assert entry["stage"] == name
    assert sum(entry["share"] for entry in both.description) == pytest.approx(1, abs=1e-4)
    num_tokens = [sum(len(row["input_ids"]) for row in supply.train) for supply in each]
    shares = [entry["share"] for entry in both.description]
    assert shares == pytest.approx([number / sum(num_tokens) for number in num_tokens], abs=1e-5)


def test_epochs_and_other_batches_count_rows_and_fill_the_last_step(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    talks = stages.job(
        "sft", data=stages.data("talks"), max_steps=-1, num_train_epochs=2, batch_size=4
    )
    sft = stages.job("sft", max_steps=2, batch_size=5)
    both = supplied(joint(replace(sft, id="epochs"), talks), tiny_tokenizer)
    assert (both.num_steps, len(both.train)) == (12, 60)  # 48 + 10 rows in steps of 5
    assert len(set(rows(both))) == 24 + 10


def test_each_stage_has_its_own_hygiene_and_all_leave_what_the_stage_says(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    twice = {"path": [str(stages.root / "talks.jsonl")] * 2}
    talks = stages.job("sft", data=twice, max_steps=-1)
    sft = stages.job("sft", max_steps=-1)
    job = joint(replace(sft, id="hygiene"), talks)
    assert [entry["rows"] for entry in supplied(job, tiny_tokenizer).description] == [48, 24]
    # Neither enters the id that a test gives: what was made before is of other settings.
    clean = talks.spec.model_copy(update={"hygiene": HygieneSpec(duplicates="exact")})
    job = replace(job, joined=(replace(job.joined[0], spec=clean), job.joined[1]))
    made = supplied(job, tiny_tokenizer)
    assert [entry["rows"] for entry in made.description] == [24, 24]
    assert [entry.get("exact_duplicates") for entry in made.description] == [24, None]
    assert len(made.exemplars) == 48
    few = replace(job, spec=job.spec.model_copy(update={"exemplars": 9}))
    assert len(supplied(few, tiny_tokenizer).exemplars) == 9


def test_the_seed_decides_the_order_alone(stages: TinyStages, tiny_tokenizer: Any) -> None:
    talks, sft = stages.job("sft", data=stages.data("talks"), max_steps=2), stages.job("sft")
    made = [supplied(joint(replace(sft, id=f"seed-{n}"), talks), tiny_tokenizer) for n in range(2)]
    order = [[row["input_ids"] for row in supply.train] for supply in made]
    assert order[0] == order[1]
    again = joint(replace(sft, id="seed-2", seed=6), talks)
    again = replace(again, joined=(again.joined[0], Joined("sft", sft.spec, sft.seed)))
    other = supplied(again, tiny_tokenizer)
    assert rows(other) == rows(made[0])
    assert [row["input_ids"] for row in other.train] != order[0]


def test_a_process_group_is_told_of_all_its_stages(stages: TinyStages) -> None:
    job = joint(stages.job("sft"), stages.job("pretrain", max_steps=3, seed=9))
    assert job_from_json(job_to_json(job)) == job


def test_one_step_on_everything_equals_training_on_the_concatenated_data(
    stages: TinyStages,
) -> None:
    settings: dict[str, Any] = {"max_steps": 1, "batch_size": 24, "parent": stages.base}
    talks = stages.job("sft", data=stages.data("talks"), **settings)
    sft = stages.job("sft", **settings)
    wide = sft.spec.model_copy(update={"train": sft.spec.train | {"batch_size": 48}})
    trained = stages.train(replace(joint(sft, talks), spec=wide))
    data = {"path": [str(stages.root / f"{name}.jsonl") for name in ("chats", "talks")]}
    whole = stages.job("sft", data=data, parent=stages.base, max_steps=1, batch_size=48)
    plain = stages.train(whole)
    assert trained.log[0]["loss"] == pytest.approx(plain.log[0]["loss"], rel=1e-6)
    assert difference(trained.weights, plain.weights) < 1e-5


def test_packed_documents_and_single_answers_are_one_mean_over_tokens(stages: TinyStages) -> None:
    pretrain = stages.job("pretrain", max_steps=1)
    sft = stages.job("sft", max_steps=1, micro_batch=4)
    wide = sft.spec.model_copy(update={"train": sft.spec.train | {"batch_size": 16}})
    job = replace(joint(sft, pretrain), spec=wide)
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    values = []
    for row in supplied(replace(job, output=job.output.with_name("looked-at")), tokenizer).train:
        start = 0
        for length in row["seq_lengths"]:
            ids = row["input_ids"][start : start + length]
            labels = row["labels"][start : start + length]
            log_p = log_probabilities(stages.sft.output, ids)
            for place in range(1, length):
                if labels[place] != -100:
                    values.append(-float(log_p[place - 1, ids[place]]))
            start += length
    trained = stages.train(job)
    assert trained.log[0]["loss"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert [entry["stage"] for entry in trained.manifest["data"]] == ["pretrain-0", "sft"]
