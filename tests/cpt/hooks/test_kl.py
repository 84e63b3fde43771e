"""The KL hook against closed forms that are computed from whole logits, without padding or chunks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cpt.errors import EdgeError, HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.past import Past, PastStage
from cpt.world import World
from tests.tiny_stages import TinyStages, equal, first_rows, log_probabilities, weights_of

BETA = 0.7


def divergences(policy: Path, reference: Path, ids: list[int], start: int) -> Tensor:
    """KL(policy || reference) where the tokens from `start` on are predicted."""
    p, r = log_probabilities(policy, ids), log_probabilities(reference, ids)
    values: Tensor = (p.exp() * (p - r)).sum(-1)[start - 1 : len(ids) - 1]
    return values


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_sft_term_is_the_mean_over_the_steps_label_tokens(
    micro_batch: int, stages: TinyStages
) -> None:
    hooks = {"kl": {"of": "base", "beta": BETA}}
    job = stages.job("sft", hooks, micro_batch=micro_batch, max_steps=1)
    values = []
    for row in first_rows(stages, job):
        start = next(place for place, label in enumerate(row["labels"]) if label != -100)
        every = divergences(stages.sft.output, stages.base, row["input_ids"], start)
        labelled = [label != -100 for label in row["labels"][start:]]
        values.append(every[torch.tensor(labelled)])
    assert len({len(part) for part in values}) > 3  # else a mean of means would pass
    expected = BETA * float(torch.cat(values).mean())
    assert stages.train(job).log[0]["hook/kl"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_dpo_term_is_the_mean_over_sequences_of_their_token_means(
    micro_batch: int, stages: TinyStages
) -> None:
    from cpt.checkpoint import load_tokenizer

    hooks = {"kl": {"of": "base", "beta": BETA}}
    job = stages.job("dpo", hooks, micro_batch=micro_batch, max_steps=1)
    tokenizer = load_tokenizer(str(stages.sft.output / "checkpoint"))

    def ids(chat: list[dict[str, str]], prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
        return list(tokenizer(text)["input_ids"])

    means = []
    for row in first_rows(stages, job):
        for end in (row["chosen"], row["rejected"]):
            whole, start = ids(row["prompt"] + end, False), len(ids(row["prompt"], True))
            means.append(divergences(stages.sft.output, stages.base, whole, start).mean())
    expected = BETA * float(torch.stack(means).mean())
    assert stages.train(job).log[0]["hook/kl"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("micro_batch", [8, 4])
def test_grpo_term_is_the_mean_over_completions_of_their_token_means(
    micro_batch: int, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.grpo import GRPO

    seen: list[dict[str, Tensor]] = []
    mask = GRPO.loss_mask

    def watch(self: GRPO, inputs: Any, forward: Any) -> Tensor:
        seen.append({key: value for key, value in inputs.items() if isinstance(value, Tensor)})
        return mask(self, inputs, forward)

    monkeypatch.setattr(GRPO, "loss_mask", watch)
    hooks = {"kl": {"of": "base", "beta": BETA}}
    job = stages.job("grpo", hooks, micro_batch=micro_batch, max_steps=1)
    logged = stages.train(job).log[0]["hook/kl"]
    means = []
    for batch in seen:
        for row in range(len(batch["prompt_ids"])):
            parts = [
                batch[f"{part}_ids"][row][batch[f"{part}_mask"][row].bool()].tolist()
                for part in ("prompt", "completion")
            ]
            whole, start = parts[0] + parts[1], len(parts[0])
            means.append(divergences(stages.sft.output, stages.base, whole, start).mean())
    assert len(means) == 8
    assert logged == pytest.approx(BETA * float(torch.stack(means).mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["pretrain", "sft", "dpo", "grpo"])
def test_reference_is_the_policy_before_the_first_step(kind: str, stages: TinyStages) -> None:
    job = stages.job(kind, {"kl": {"beta": 1.0}}, max_steps=2, learning_rate=5.0)
    log = stages.train(job).log
    assert log[0]["hook/kl"] == pytest.approx(0.0, abs=1e-6)
    assert log[1]["hook/kl"] > 1e-6


def test_reference_is_bit_identical_after_training(stages: TinyStages) -> None:
    from cpt.checkpoint import load_model
    from cpt.hooks.backbone import FrozenReference

    made: list[FrozenReference] = []
    keep = FrozenReference.__init__

    def watch(self: FrozenReference, model: Any, trained: Any = None) -> None:
        keep(self, model, trained)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenReference, "__init__", watch)
        stages.train(stages.job("sft", {"kl": {"of": "base", "beta": 1.0}}))
    (reference,) = made
    before = load_model(str(stages.base / "checkpoint")).state_dict()
    assert equal(dict(reference.model.state_dict()), dict(before))
    assert all(p.grad is None and not p.requires_grad for p in reference.model.parameters())


@pytest.mark.parametrize(
    ("backend", "is_refused"), [("fsdp2", True), ("zero3", True), ("ddp", False)]
)
def test_a_whole_copy_is_refused_where_a_share_was_planned(
    backend: str, is_refused: bool, stages: TinyStages
) -> None:
    from cpt.checkpoint import load_model
    from stages.opening import past_of, reference_loader

    job = stages.job("sft", {"kl": {"of": "base"}}, num_processes=2, backend=backend)
    model = load_model(str(stages.base / "checkpoint"))  # as no backend has prepared it
    before = past_of(job)
    reference = reference_loader(model, before, "elsewhere", job)
    if not is_refused:
        assert reference(before[0]).head.parameters()
        return
    with pytest.raises(EdgeError, match=rf"sft: base cannot be spread .* {backend} has left whole"):
        reference(before[0])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapter_off_is_the_loaded_reference(dropout: float, stages: TinyStages) -> None:
    """With an adapter, the stage's start is its weights with the adapter off: no second model."""
    from cpt.checkpoint import load_model
    from cpt.hooks.backbone import AdapterOff, FrozenReference
    from cpt.hooks.lora import Lora

    folder = str(stages.sft.output / "checkpoint")
    ctx = StageContext("sft", "sft", ("messages",), 5, World(), folder)
    model = Lora(rank=2, dropout=dropout).adapt(load_model(folder), ctx)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.train()
    forward = {"input_ids": torch.arange(12)[None], "attention_mask": torch.ones(1, 12)}
    off, loaded = AdapterOff(model), FrozenReference(load_model(folder))
    with torch.no_grad():
        assert off.hidden(forward).equal(loaded.hidden(forward))
        assert off.head(off.hidden(forward)).equal(loaded.head(loaded.hidden(forward)))
        on = model.get_base_model().base_model(**forward).last_hidden_state
        assert not on.equal(off.hidden(forward))
    assert model.training  # as it was before


def test_adapter_off_and_a_loaded_reference_train_the_same(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = {"kl": {"beta": 1.0}, "lora": {"rank": 2}}
    off = stages.train(stages.job("sft", hooks))
    # With the parent under another name, the loader does not know that it is the stage's start.
    alias = stages.root / "alias"
    alias.symlink_to(stages.sft.output / "checkpoint")
    select = Past.select
    renamed = PastStage("sft", "sft", "sft", None, str(alias))
    monkeypatch.setattr(
        Past, "select", lambda self, of: (renamed,) if of == "previous" else select(self, of)
    )
    loaded = stages.train(stages.job("sft", hooks))
    assert equal(off.weights, loaded.weights)
    assert off.log[-1]["hook/kl"] == loaded.log[-1]["hook/kl"] > 0


def test_a_stronger_beta_stays_closer(stages: TinyStages) -> None:
    start = weights_of(stages.sft.output / "checkpoint")

    def distance(beta: float) -> float:
        weights = stages.train(stages.job("sft", {"kl": {"beta": beta}}, learning_rate=0.3)).weights
        return sum(float((weights[name] - start[name]).square().sum()) for name in start)

    near, middle, far = distance(4.0), distance(1.0), distance(0.0)
    assert near < middle < far


class TestRefusals:
    def test_a_reference_that_is_the_model_itself(self, tmp_path: Path) -> None:
        from cpt.hooks.backbone import FrozenReference
        from cpt.hooks.kl import KL
        from tests.toy_model import Toy, ToyPast, encode, rows, tokens_of

        past, model, hook = ToyPast(tmp_path, {"old": (3, rows(4))}), Toy(0), KL("old")
        ctx = past.context()
        hook.recall(past.past, ctx)
        ctx.reference = lambda stage: FrozenReference(model)
        with pytest.raises(HookError, match="kl: the reference is the model that is trained"):
            hook.penalty(model, tokens_of(model, encode(rows(2))), ctx)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"beta": -0.1}, "beta: input should be greater than or equal to 0, not -0.1"),
            ({"beta": float("nan")}, "beta: input should be a finite number"),
            ({"beta": float("inf")}, "beta: input should be a finite number"),
            ({"direction": "sideways"}, "direction: input should be 'reverse', 'forward' or 'js'"),
            ({"of": "all"}, "`of` names one earlier stage"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            table.build("kl", settings, "sft.yaml")

    def test_a_stage_that_is_not_there_before_anything_is_loaded(self, stages: TinyStages) -> None:
        job = stages.job("sft", {"kl": {"of": "pretain"}})
        with pytest.raises(HookError, match=r"no earlier stage 'pretain'; did you mean 'pretrain'"):
            stages.train(job)
        assert not (job.partial / "trainer").exists()

    def test_a_reference_with_another_vocabulary(self, stages: TinyStages) -> None:
        from dataclasses import replace

        from cpt.model_spec import ModelChange

        job = stages.job("sft", {"kl": {"of": "base"}})
        changed = job.spec.model_copy(update={"model": ModelChange(add_tokens=["<|more|>"])})
        words = r"hooks.kl: .* has 259 embeddings and this stage 260; add the tokens in the chain"
        with pytest.raises(EdgeError, match=words):
            stages.train(replace(job, spec=changed))
