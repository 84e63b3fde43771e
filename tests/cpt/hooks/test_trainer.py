"""The seam: where hooks act in a TRL trainer, and what survives an interruption."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from cpt.errors import HookError
from cpt.hooks.backbone import BackboneTap, bare_model
from cpt.hooks.base import POINTS, Hook, points
from cpt.hooks.context import StageContext
from cpt.hooks.stack import HookStack
from cpt.params import View
from cpt.world import World
from tests.tiny_stages import Interrupted, TinyStages, difference, equal, weights_of

HEAD = "lm_head.weight"


@dataclass
class Push(Hook):
    """Adds `force` to the gradient of the output head, by `pull` or by `project`."""

    name: ClassVar[str] = "push"
    force: float = 0.0
    at_end: bool = False
    calls: list[str] = field(default_factory=list, init=False)

    def pull(self, view: View, ctx: StageContext) -> None:
        self.calls.append(f"pull {ctx.step}")
        if not self.at_end:
            self._push(view)

    def project(self, view: View, ctx: StageContext) -> None:
        self.calls.append(f"project {ctx.step}")
        if self.at_end:
            self._push(view)

    def track(self, view: View, ctx: StageContext) -> None:
        self.calls.append(f"track {ctx.step}")

    def _push(self, view: View) -> None:
        for name, _, gradient in view.shards():
            if name == HEAD:
                assert gradient is not None
                gradient.add_(self.force)

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(len(self.calls))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.calls.append(f"loaded {int(state['count'])}")


def with_hook(monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    """Let every stage have this hook, which is in no table."""
    import stages.under_way as under_way

    monkeypatch.setattr(under_way, "build_hooks", lambda job: [hook])


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(("kind", "micro_batch"), [("sft", 8), ("sft", 1), ("dpo", 1), ("grpo", 4)])
def test_gradient_edits_count_once_per_optimizer_step(
    kind: str, micro_batch: int, at_end: bool, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"max_steps": 1, "learning_rate": 0.1, "max_grad_norm": 1e6}
    plain = stages.train(stages.job(kind, micro_batch=micro_batch, **settings)).weights
    with_hook(monkeypatch, Push(force=3.0, at_end=at_end))
    pushed = stages.train(stages.job(kind, micro_batch=micro_batch, **settings)).weights
    moved = plain[HEAD] - pushed[HEAD]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1 * 3.0), rtol=1e-5, atol=1e-6)
    others = [name for name in plain if name != HEAD]
    assert all(plain[name].equal(pushed[name]) for name in others)


@pytest.mark.parametrize("at_end", [False, True])
def test_clipping_comes_after_the_edits(
    at_end: bool, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_hook(monkeypatch, Push(force=1e3, at_end=at_end))
    job = stages.job("sft", max_steps=1, learning_rate=0.1, max_grad_norm=0.5)
    after, before = stages.train(job).weights, weights_of(stages.sft.output / "checkpoint")
    squares = sum(float((after[n].double() - before[n].double()).square().sum()) for n in after)
    assert squares**0.5 == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_hooks_act_in_the_order_of_the_protocol(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Push()
    with_hook(monkeypatch, hook)
    stages.train(stages.job("sft", max_steps=2, micro_batch=2))
    steps = ["pull 0", "project 0", "track 1", "pull 1", "project 1", "track 2"]
    assert hook.calls == steps
    assert points(hook) == tuple(p for p in POINTS if p in ("pull", "project", "track"))


def test_state_comes_back_before_the_first_step_after_an_interruption(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stages.job("sft", checkpoint_every=2)
    with_hook(monkeypatch, Push())
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    again = Push()
    with_hook(monkeypatch, again)
    stages.train(job)
    assert again.calls[:2] == ["loaded 6", "pull 2"]
    assert again.calls[-1] == "track 4"


def test_held_out_loss_has_no_terms_of_hooks(stages: TinyStages) -> None:
    data = {**stages.data("chats"), "validation": {"fraction": 0.25}}
    settings: dict[str, Any] = {"data": data, "max_steps": 1, "learning_rate": 0.0}
    plain = stages.train(stages.job("sft", **settings))
    penalised = stages.train(stages.job("sft", {"kl": {"of": "base", "beta": 5.0}}, **settings))

    def held_out(trained: Any) -> list[float]:
        return [row["eval_loss"] for row in trained.log if "eval_loss" in row]

    assert held_out(plain)
    assert held_out(plain) == held_out(penalised)


def test_evaluation_changes_nothing(stages: TinyStages) -> None:
    """With hooks or without: what is measured is not trained on."""
    hooks = {"kl": {"of": "base", "beta": 0.5}, "lora": {"rank": 2, "dropout": 0.5}}
    data = {**stages.data("chats"), "validation": {"fraction": 0.25}}
    often = stages.train(stages.job("sft", hooks, data=data, eval_steps=1))
    seldom = stages.train(stages.job("sft", hooks, data=data, eval_steps=4))
    assert equal(often.weights, seldom.weights)


@pytest.mark.parametrize("kind", ["pretrain", "dpo", "grpo"])
def test_other_kinds_continue_exactly_too(kind: str, stages: TinyStages) -> None:
    """test_contract.py interrupts sft; here, all hooks that fit at once."""
    hooks: dict[str, dict[str, Any]] = {
        "kl": {"of": "base", "beta": 0.5},
        "ema": {"decay": 0.5},
        "lora": {"rank": 2, "dropout": 0.1},
        "interpolate": {"of": "base", "alpha": 0.5},
    }
    whole = stages.train(stages.job(kind, hooks))
    job = stages.job(kind, hooks, checkpoint_every=2)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    assert equal(stages.train(job).weights, whole.weights)


def test_gradient_checkpointing_trains_the_same(stages: TinyStages) -> None:
    """The backbone runs twice then, and the tap must see it once."""
    hooks = {"kl": {"of": "base", "beta": 0.5}}
    plain = stages.train(stages.job("sft", hooks))
    checkpointed = stages.train(stages.job("sft", hooks, gradient_checkpointing=True))
    assert difference(plain.weights, checkpointed.weights) < 2e-6


class Wrapper(nn.Module):
    """What DDP looks like."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class TestBackboneTap:
    def test_sees_through_wrappers(self, tiny_model: Any) -> None:
        from cpt.hooks.lora import Lora

        ctx = StageContext("sft", "sft", ("messages",), 5, World(), "")
        adapted: Any = Lora(rank=2).adapt(tiny_model, ctx)
        assert bare_model(Wrapper(Wrapper(adapted))) is tiny_model
        tap = BackboneTap(Wrapper(adapted))
        adapted.train()
        ids = torch.tensor([[3, 4, 5]])
        adapted(input_ids=ids, attention_mask=torch.ones_like(ids))
        forward, hidden = tap.take()
        assert forward["input_ids"].equal(ids)
        assert set(forward) >= {"input_ids", "attention_mask"}
        assert hidden.shape == (1, 3, 32)
        assert hidden.requires_grad

    def test_forwards_without_a_gradient_are_not_the_trainers(self, tiny_model: Any) -> None:
        tap = BackboneTap(tiny_model)
        ids = torch.tensor([[3, 4, 5]])
        tiny_model.train()
        with torch.no_grad():
            tiny_model(input_ids=ids)
        tiny_model.eval()
        tiny_model(input_ids=ids)
        with pytest.raises(HookError, match=r"made 0 forward passes"):
            tap.take()

    def test_forwards_after_the_trainers_own_are_a_hooks(self, tiny_model: Any) -> None:
        tap = BackboneTap(tiny_model)
        tiny_model.train()
        ids = torch.tensor([[3, 4, 5]])
        tiny_model(input_ids=ids)
        tap.take()
        tiny_model(input_ids=ids)
        assert tap.seen == []  # what it saw would be held until the next step
        tap.clear()
        tiny_model(input_ids=ids)
        tap.take()

    def test_two_forwards_are_refused(self, tiny_model: Any) -> None:
        tap = BackboneTap(tiny_model)
        tiny_model.train()
        for _ in range(2):
            tiny_model(input_ids=torch.tensor([[3, 4, 5]]))
        with pytest.raises(HookError, match=r"made 2 forward passes in one step"):
            tap.take()


def _everything(inputs: Any, forward: Any) -> Tensor:
    return torch.ones(1, 1)


class TestRefusals:
    def test_gradient_edits_under_a_scaler(self, tiny_model: Any) -> None:
        from cpt.hooks.trainer import _Hooks

        trainer = SimpleNamespace(
            model=tiny_model,
            accelerator=SimpleNamespace(scaler=object()),
            add_callback=lambda callback: None,
        )
        ctx = StageContext("sft", "sft", ("messages",), 5, World(), "")
        with pytest.raises(HookError, match="need bf16 or fp32"):
            _Hooks.attach(
                trainer, HookStack([Push()], ctx), lambda inputs, forward: torch.ones(1, 1), "token"
            )

    def test_state_of_a_hook_that_the_stage_does_not_list(self) -> None:
        ctx = StageContext("sft", "sft", ("messages",), 5, World(), "")
        with pytest.raises(HookError, match=r"hooks that this stage does not list: ewc"):
            HookStack([Push()], ctx).load_state_dict({"ewc/a": torch.zeros(1)})
