"""A training whose numbers end says where they ended, and what was good before stays."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import CptError
from cpt.hooks.kl import KL
from cpt.hooks.l2_sp import L2SP
from cpt.store import complete_checkpoints
from cpt.world import World
from stages.base import Job
from stages.finite import Finite
from tests.tiny_stages import TinyStages, equal

pytestmark = pytest.mark.chain

HOOKS = {"kl": {}, "l2_sp": {"strength": 0.01}}
NAN = float("nan")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Breaks a number from the third step on: `planted(place)`."""
    import trl

    loss_of: Any
    penalty: Any
    loss_of, penalty, pull = trl.SFTTrainer.compute_loss, KL.penalty, L2SP.pull
    step = Finite.step

    def is_time(step: int) -> bool:
        return step >= 2

    def loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        return loss_of(self, *args, **kwargs) * (NAN if is_time(self.state.global_step) else 1.0)

    def flat(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Finite, and its derivative is not: 0 * inf."""
        nothing = 0.0 * next(model.parameters()).sum()
        more = nothing.sqrt() if is_time(self.state.global_step) else 0.0
        return loss_of(self, model, *args, **kwargs) + more

    def term(self: Any, model: Any, tokens: Any, ctx: Any) -> Any:
        found = penalty(self, model, tokens, ctx)
        return found * float("inf") if is_time(ctx.step) else found

    def edit(self: Any, view: Any, ctx: Any) -> Any:
        told = pull(self, view, ctx)
        if is_time(ctx.step):
            list(view.shards())[-1][2].fill_(NAN)
        return told

    def spoil(self: Any) -> Any:
        state = self.trainer.state
        if state.global_step == state.max_steps:  # sooner, the loss of the next step would be none
            list(self.trainer.model.parameters())[-1].data.view(-1)[0] = NAN
        return step(self)

    def plant(place: str) -> None:
        if place in ("loss", "gradient"):
            made = loss if place == "loss" else flat
            monkeypatch.setattr(trl.SFTTrainer, "compute_loss", made)
        elif place == "term":
            monkeypatch.setattr(KL, "penalty", term)
        elif place == "pull":
            monkeypatch.setattr(L2SP, "pull", edit)
        else:
            monkeypatch.setattr(Finite, "step", spoil)

    return plant


def failed(stages: TinyStages, job: Job) -> str:
    with pytest.raises(CptError) as error:
        stages.train(job)
    return str(error.value)


@pytest.mark.parametrize(
    ("place", "hooks", "words"),
    [
        ("loss", {}, "step 3: the loss is no finite number"),
        ("loss", HOOKS, "step 3: the loss is no finite number"),
        ("term", HOOKS, "step 3: the term of the hook kl is no finite number"),
        ("gradient", {}, "step 3: the gradient's norm is no finite number"),
        ("gradient", HOOKS, "step 3: the gradient is no finite number"),
        ("pull", HOOKS, "step 3: the gradient behind pull of the hook l2_sp is no finite number"),
        ("weights", HOOKS, "step 4: a weight is no finite number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "hooks" if value else "alone",
)
def test_the_first_place_is_named_and_the_last_good_checkpoint_stays(
    place: str, hooks: Any, words: str, stages: TinyStages, planted: Any, monkeypatch: Any
) -> None:
    job = stages.job("sft", hooks, checkpoint_every=2)
    planted(place)
    said = failed(stages, job)
    assert words in said
    assert "(loss " in said
    good = job.partial / "trainer" / "checkpoint-2"
    assert f"the weights of step 2 are in {good};" in said
    assert ("weaken kl, " in said, "weaken l2_sp, " in said) == (place == "term", place == "pull")
    assert [step for step, _ in complete_checkpoints(good.parent)] == [2]
    assert not (job.partial / "trained").exists()
    assert not job.output.exists()
    assert failed(stages, job) == said  # the same command, the same place
    monkeypatch.undo()
    again = stages.train(job)
    assert equal(again.weights, stages.train(stages.job("sft", hooks)).weights)


def test_weights_are_looked_at_in_the_end_too(stages: TinyStages, planted: Any) -> None:
    job = stages.job("sft", max_steps=3)
    planted("weights")
    said = failed(stages, job)
    assert "step 3: a weight is no finite number" in said
    assert "of the checkpoints before it, none is kept" in said
    assert not (job.partial / "checkpoint").exists()


def test_the_log_has_the_loss_as_it_is(stages: TinyStages) -> None:
    """transformers would put the mean of earlier losses in place of one that is no number."""
    from stages.trl_args import trl_config

    config = trl_config("SFTConfig", {"batch_size": 8}, output_dir=Path(), seed=1, use_cpu=True)
    assert config.logging_nan_inf_filter is False


class _Trainer(SimpleNamespace):
    """As much of a trainer as is looked at."""

    def __init__(self, norm: Any, fp16: bool = False) -> None:
        import torch

        hooks = SimpleNamespace(
            at=lambda point: [], edits=[], needs_tokens=False, terms={}, task=0, gradient_sums=[]
        )
        super().__init__(
            hooks=hooks,
            _tr_loss=torch.tensor(1.0),
            args=SimpleNamespace(fp16=fp16),
            state=SimpleNamespace(log_history=[]),
        )
        self._get_grad_norm = lambda model: norm


@pytest.mark.parametrize(
    ("norm", "fp16", "is_broken"),
    [
        (1.0, False, False),
        (None, False, False),
        (float("inf"), False, True),
        (-1.0, False, True),  # DeepSpeed's word for it
        (float("inf"), True, False),  # fp16: the scaler skips the step
    ],
)
def test_norms(norm: Any, fp16: bool, is_broken: bool) -> None:
    job: Any = SimpleNamespace(name="sft", partial=Path("nowhere"))
    trainer: Any = _Trainer(norm, fp16)
    finite = Finite(trainer, job, World())
    assert trainer._get_grad_norm("model") == norm
    assert finite.step().tolist() == [0.0, 0.0, float(is_broken)]
    assert finite.step().tolist() == [0.0, 0.0, 0.0]  # of the next step nothing is known yet


def test_one_process_of_two_is_named() -> None:
    import torch

    job: Any = SimpleNamespace(name="sft", partial=Path("nowhere"))
    finite = Finite(_Trainer(1.0), job, World(size=2))
    finite.judge(torch.zeros(2, 3), 7)
    with pytest.raises(CptError, match="sft: step 7: the loss is no finite number on process 1;"):
        finite.judge(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]), 7)
    with pytest.raises(CptError, match="the gradient's norm is no finite number;"):
        finite.judge(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 7)
