"""The moving average against its closed form."""

from typing import Any

import pytest
import torch
from torch import nn

from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.hooks.ema import EMA
from cpt.hooks.lora import Lora
from cpt.params import View, trainable
from cpt.world import World
from tests.tiny_stages import TinyStages

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")


def closed_form(weights: list[torch.Tensor], decay: float) -> torch.Tensor:
    """sum_k decay^(n-k) w_k / sum_k decay^(n-k), in float64."""
    n = len(weights)
    shares = [decay ** (n - k) for k in range(1, n + 1)]
    mean = sum(share * w.double() for share, w in zip(shares, weights, strict=True))
    return torch.as_tensor(mean / sum(shares))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_result_is_the_closed_form_after_n_steps(decay: float, num_steps: int) -> None:
    torch.manual_seed(3)
    model, hook = nn.Linear(3, 2), EMA(decay)
    seen: dict[str, list[torch.Tensor]] = {"weight": [], "bias": []}
    for _ in range(num_steps):
        for name, parameter in model.named_parameters():
            parameter.data.normal_()
            seen[name].append(parameter.detach().clone())
        hook.track(View(model, World()), CTX)
    hook.merge(model, CTX)
    for name, parameter in model.named_parameters():
        expected = closed_form(seen[name], decay)
        tolerance = 2e-4 if decay == 0.999 else 1e-6  # 1 - decay^n cancels three digits
        torch.testing.assert_close(parameter.double(), expected, rtol=tolerance, atol=tolerance)


def test_first_average_is_the_first_weight_whatever_the_start() -> None:
    model, hook = nn.Linear(3, 2), EMA(0.9)
    before = model.weight.detach().clone()
    hook.track(View(model, World()), CTX)
    hook.merge(model, CTX)
    torch.testing.assert_close(model.weight, before, rtol=1e-6, atol=0)


def test_average_of_bf16_weights_is_kept_in_fp32() -> None:
    model, hook = nn.Linear(1, 1, bias=False).bfloat16(), EMA(0.99)
    for step in range(200):
        # 1 and 1 + 1/128 are neighbours in bf16: a bf16 average would never move between them.
        model.weight.data.fill_(1.0 if step % 2 else 1.0 + 1 / 128)
        hook.track(View(model, World()), CTX)
    assert hook.mean["weight"].dtype == torch.float32
    mean = hook.mean["weight"].item() / (1 - 0.99**200)
    assert mean == pytest.approx(1 + 0.5 / 128, abs=1e-4)
    assert hook.merge(model, CTX).weight.dtype == torch.bfloat16


def test_a_trained_stage_is_the_closed_form_of_its_steps(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watch(monkeypatch)
    trained = stages.train(stages.job("sft", {"ema": {"decay": 0.6}}))
    assert len(seen) == 4
    for name, weight in trained.weights.items():
        expected = closed_form([step[name] for step in seen], 0.6)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_under_an_adapter_its_factors_are_averaged(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watch(monkeypatch)
    job = stages.job("sft", {"ema": {"decay": 0.6}, "lora": {"rank": 2, "alpha": 4}})
    trained = stages.train(job)
    from tests.tiny_stages import weights_of

    start = weights_of(stages.sft.output / "checkpoint")
    name = "model.layers.1.mlp.up_proj"
    assert all("lora_" in key for key in seen[0])
    a, b = (
        closed_form([step[f"{name}.lora_{part}.default.weight"] for step in seen], 0.6)
        for part in "AB"
    )
    expected = start[f"{name}.weight"].double() + 4 / 2 * b @ a
    got = trained.weights[f"{name}.weight"].double()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not got.equal(start[f"{name}.weight"].double())


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Every step's trainable weights, as the hook is shown them."""
    seen: list[dict[str, torch.Tensor]] = []
    track = EMA.track

    def watch(self: EMA, view: View, ctx: StageContext) -> None:
        seen.append({name: p.detach().clone() for name, p in trainable(view.model)})
        track(self, view, ctx)

    monkeypatch.setattr(EMA, "track", watch)
    return seen


class TestWrappedNames:
    def test_tracked_below_a_wrapper_and_merged_without_it(self) -> None:
        model = nn.Linear(2, 2)
        hook = EMA(0.5)
        hook.track(View(nn.ModuleDict({"module": model}), World()), CTX)
        model.weight.data.add_(1)
        hook.merge(model, CTX)
        assert hook.mean.keys() == {"weight", "bias"}

    def test_names_of_another_model_are_refused(self, tiny_model: Any) -> None:
        hook = EMA(0.5)
        hook.track(View(tiny_model, World()), CTX)
        with pytest.raises(HookError, match=r"averaged other parameters than the model trains"):
            hook.merge(Lora(rank=2).adapt(tiny_model, CTX), CTX)


class TestRefusals:
    @pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan"), float("inf")])
    def test_decay_out_of_range(self, decay: float) -> None:
        with pytest.raises(RecipeError, match=r"hooks.ema: decay: input should be"):
            table.build("ema", {"decay": decay}, "sft.yaml")

    def test_nothing_to_average(self) -> None:
        with pytest.raises(HookError, match=r"took no optimizer step"):
            EMA(0.5).merge(nn.Linear(1, 1), CTX)
