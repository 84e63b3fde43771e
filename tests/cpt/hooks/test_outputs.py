"""Hooks on outputs in whole stages: terms through the trainer, packed rows, adapters, one model less."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cpt.past import Past, PastStage
from tests.tiny_stages import TinyStages, difference, equal, first_rows, log_probabilities

BETA = 0.7
KINDS = ["pretrain", "sft", "dpo", "grpo"]


@pytest.fixture
def num_loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The frozen models that were loaded."""
    from cpt.hooks.backbone import FrozenReference

    made: list[Any] = []
    keep = FrozenReference.__init__

    def watch(self: FrozenReference, model: Any, trained: Any = None) -> None:
        keep(self, model, trained)
        made.append(self)

    monkeypatch.setattr(FrozenReference, "__init__", watch)
    return made


def divergences(stages: TinyStages, ids: list[int]) -> Tensor:
    """[T - 1]: KL(base || sft) where each token but the first is predicted."""
    p = log_probabilities(stages.sft.output, ids)
    r = log_probabilities(stages.base, ids)
    values: Tensor = (r.exp() * (r - p)).sum(-1)[:-1]
    return values


@pytest.mark.parametrize("micro_batch", [8, 2])
@pytest.mark.parametrize("positions", ["labels", "prompt", "all"])
def test_term_on_new_inputs_is_the_mean_over_the_steps_positions(
    positions: str, micro_batch: int, stages: TinyStages
) -> None:
    hook = {"of": "base", "beta": BETA, "temperature": 1, "inputs": "new", "positions": positions}
    job = stages.job("sft", {"lwf": hook}, micro_batch=micro_batch, max_steps=1)
    values = []
    for row in first_rows(stages, job):
        every = divergences(stages, row["input_ids"])
        labelled = torch.tensor([label != -100 for label in row["labels"][1:]])
        wanted = {"labels": labelled, "prompt": ~labelled, "all": labelled | True}[positions]
        values.append(every[wanted])
    expected = BETA * float(torch.cat(values).mean())
    assert stages.train(job).log[0]["hook/lwf"] == pytest.approx(expected, rel=1e-5)


def test_in_full_rows_of_documents_all_positions_are_labels(stages: TinyStages) -> None:
    """No document predicts the first token of the next one in its row."""
    hook = {"of": "base", "inputs": "new"}
    logged = [
        stages.train(
            stages.job("pretrain", {"lwf": {**hook, "positions": positions}}, max_steps=1)
        ).log[0]["hook/lwf"]
        for positions in ("labels", "all")
    ]
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)


@pytest.mark.parametrize(("kind", "adapter"), [*((kind, False) for kind in KINDS), ("sft", True)])
def test_general_term_is_0_before_the_first_step(
    kind: str, adapter: bool, stages: TinyStages
) -> None:
    hooks: list[dict[str, Any]] = [{"lwf": {"rows_of": "pretrain"}}]
    if adapter:
        hooks.append({"lora": {"rank": 2}})
    log = stages.train(stages.job(kind, hooks, max_steps=2, learning_rate=5.0)).log
    assert log[0]["hook/lwf"] == pytest.approx(0.0, abs=1e-6)
    assert log[1]["hook/lwf"] > 1e-6


def test_adapter_off_and_a_loaded_model_teach_the_same(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch, num_loaded: list[Any]
) -> None:
    hooks = {"lwf": {"rows_of": "pretrain"}, "lora": {"rank": 2}}
    off = stages.train(stages.job("sft", hooks))
    assert num_loaded == []
    # With the parent under another name, the loader does not know that it is the stage's start.
    alias = stages.root / "alias-of-sft"
    alias.symlink_to(stages.sft.output / "checkpoint")
    select = Past.select
    renamed = PastStage("sft", "sft", "sft", None, str(alias))
    monkeypatch.setattr(
        Past, "select", lambda self, of: (renamed,) if of == "previous" else select(self, of)
    )
    loaded = stages.train(stages.job("sft", hooks))
    assert len(num_loaded) == 1
    assert equal(off.weights, loaded.weights)
    assert off.log[-1]["hook/lwf"] == loaded.log[-1]["hook/lwf"] > 0


def test_with_a_cache_it_trains_the_same_without_a_second_model(
    stages: TinyStages, num_loaded: list[Any]
) -> None:
    hook = {"of": "base", "rows_of": "pretrain"}
    live = stages.train(stages.job("sft", {"lwf": hook}))
    assert len(num_loaded) == 1
    size = live.weights["model.embed_tokens.weight"].shape[0]
    kept = stages.train(stages.job("sft", {"lwf": {**hook, "cache": size}}))
    assert len(num_loaded) == 1
    assert kept.log[0]["hook/lwf"] == pytest.approx(live.log[0]["hook/lwf"], rel=2e-3)
    assert difference(kept.weights, live.weights) < 1e-3


@pytest.mark.parametrize("hook", ["kl", "lwf"])
def test_strength_0_loads_nothing(hook: str, stages: TinyStages, num_loaded: list[Any]) -> None:
    stages.train(stages.job("sft", {hook: {"of": "base", "beta": 0}}, max_steps=1))
    assert num_loaded == []


def test_packed_rows_and_old_rows_do_not_meet(stages: TinyStages) -> None:
    """Old rows are batches of their own: packing changes neither their tokens nor their outputs."""
    hooks = {
        "der": {"of": "pretrain", "alpha": 1.0, "beta": 0.5},
        "lwf": {"of": "base", "rows_of": "pretrain", "cache": 16},
    }
    plain = stages.train(stages.job("sft", hooks, max_steps=2))
    packed = stages.train(stages.job("sft", hooks, max_steps=2, packing=True))
    for name in ("hook/der", "hook/lwf"):
        assert packed.log[0][name] == pytest.approx(plain.log[0][name], rel=1e-5)
        assert packed.log[0][name] > 1e-3


def test_several_references_add_up(stages: TinyStages) -> None:
    entries: list[dict[str, Any]] = [
        {"kl": {"of": "base", "beta": 0.4}},
        {"kl": {"of": "pretrain", "beta": 0.2, "direction": "js"}},
    ]
    both = stages.train(stages.job("sft", entries, max_steps=1)).log[0]
    alone = [stages.train(stages.job("sft", [entry], max_steps=1)).log[0] for entry in entries]
    logged = sorted(both[name] for name in ("hook/kl", "hook/kl.2"))
    assert logged == pytest.approx(sorted(row["hook/kl"] for row in alone), rel=1e-5)


def test_js_term_is_the_closed_form(stages: TinyStages) -> None:
    hooks = {"kl": {"of": "base", "beta": BETA, "direction": "js"}}
    job = stages.job("sft", hooks, max_steps=1)
    values = []
    for row in first_rows(stages, job):
        p = log_probabilities(stages.sft.output, row["input_ids"])
        r = log_probabilities(stages.base, row["input_ids"])
        m = ((p.exp() + r.exp()) / 2).log()
        every = ((p.exp() * (p - m)).sum(-1) + (r.exp() * (r - m)).sum(-1))[:-1] / 2
        values.append(every[torch.tensor([label != -100 for label in row["labels"][1:]])])
    expected = BETA * float(torch.cat(values).mean())
    assert stages.train(job).log[0]["hook/kl"] == pytest.approx(expected, rel=1e-5)
