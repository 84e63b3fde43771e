"""Quadratic penalties in closed form: the card's numbers, minimisers, two styles, one process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cpt import manifest
from cpt.anchors import Anchors
from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.anchored import Anchored
from cpt.hooks.context import StageContext
from cpt.hooks.ema import EMA
from cpt.hooks.ewc import EWC, OnlineEWC, online
from cpt.hooks.l2_sp import L2SP
from cpt.hooks.mas import MAS
from cpt.hooks.si import SI, path_importance
from cpt.hooks.stack import HookStack
from cpt.params import View
from cpt.world import World
from tests.tiny_stages import TinyStages, difference, weights_of


class Two(nn.Module):
    """Two numbers."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values))


def context(learning_rate: float = 0.0) -> StageContext:
    return StageContext("s", "sft", ("text",), 1, World(), "", learning_rate=learning_rate)


def with_anchor(hook: Any, place: list[float], importance: list[float] | None) -> Any:
    hook.anchors = Anchors()
    held = None if importance is None else {"w": torch.tensor(importance)}
    hook.anchors.add({"w": torch.tensor(place)}, held)
    hook.stages = ("a stage",)
    return hook


def pulled(hook: Any, model: nn.Module) -> dict[str, float]:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        told = hook.pull(View(model, World()), context())
    return {name: float(value) for name, value in told.items()}


def test_value_and_gradient_of_the_card() -> None:
    """F = [10, .1], w = [.3, -.7], anchor 0, strength 2: R = 0.949, gradient [6, -0.14]."""
    model = Two([0.3, -0.7])
    told = pulled(with_anchor(EWC(strength=2.0), [0.0, 0.0], [10.0, 0.1]), model)
    assert model.w.grad is not None
    assert model.w.grad.tolist() == pytest.approx([6.0, -0.14])
    assert told[""] == pytest.approx(0.949)
    assert told["grad_norm"] == pytest.approx((36 + 0.14**2) ** 0.5)


@pytest.mark.parametrize(("hook", "value"), [(MAS(strength=2.0), 1.898), (SI(strength=2.0), 1.898)])
def test_mas_and_si_have_no_half(hook: Any, value: float) -> None:
    model = Two([0.3, -0.7])
    told = pulled(with_anchor(hook, [0.0, 0.0], [10.0, 0.1]), model)
    assert told[""] == pytest.approx(value)
    assert model.w.grad is not None
    assert model.w.grad.tolist() == pytest.approx([12.0, -0.28])


def test_ewc_of_ones_is_l2_sp() -> None:
    one, other = Two([0.3, -0.7]), Two([0.3, -0.7])
    pulled(with_anchor(EWC(strength=0.5), [1.0, 2.0], [1.0, 1.0]), one)
    pulled(with_anchor(L2SP(strength=0.5), [1.0, 2.0], None), other)
    assert one.w.grad is not None
    assert other.w.grad is not None
    assert one.w.grad.equal(other.w.grad)


@pytest.mark.parametrize("style", ["gradient", "proximal"])
def test_minimiser_of_the_card(style: Any) -> None:
    """1/2 (w-a)^T diag(1, 4) (w-a) + R, a = (2, -1): (0.095238, -0.952381), in either style."""
    model, goal = Two([2.0, -1.0]), torch.tensor([2.0, -1.0])
    hook = with_anchor(EWC(strength=1.0, style=style), [0.0, 0.0], [20.0, 0.2])
    view = View(model, World())
    for _ in range(4000):
        model.w.grad = torch.tensor([1.0, 4.0]) * (model.w.detach() - goal)
        with torch.no_grad():
            hook.pull(view, context(0.01))
            model.w.sub_(0.01 * model.w.grad)
            hook.track(view, context(0.01))
    assert model.w.tolist() == pytest.approx([0.095238, -0.952381], abs=1e-4)


def test_a_proximal_step_never_overshoots() -> None:
    """lr * strength * F = 1000: a gradient step would throw the weight to -999 times its distance."""
    model = Two([1.0, 1.0])
    hook = with_anchor(EWC(strength=10.0, style="proximal"), [0.5, 0.5], [100.0, 0.0])
    with torch.no_grad():
        hook.track(View(model, World()), context(1.0))
    assert model.w.tolist() == pytest.approx([0.5 + 0.5 / 1001, 1.0])


def test_proximal_leaves_the_gradient_alone() -> None:
    model = Two([1.0, 1.0])
    hook = with_anchor(EWC(strength=10.0, style="proximal"), [0.0, 0.0], [1.0, 1.0])
    told = pulled(hook, model)
    assert model.w.grad is not None
    assert model.w.grad.tolist() == [0.0, 0.0]
    assert told[""] == pytest.approx(10.0)


def test_weights_without_a_gradient_are_held_too() -> None:
    """An expert that no token went to: the penalty is all its gradient."""
    model = Two([1.0, 0.0])
    hook = with_anchor(L2SP(strength=1.0), [0.0, 0.0], None)
    with torch.no_grad():
        hook.pull(View(model, World()), context())
    assert model.w.grad is not None
    assert model.w.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("rule", "value"), [("sum", 5.6), ("ema", 3.8), ("mean", 3.0)])
def test_running_fisher_of_the_card(rule: str, value: float) -> None:
    """F of 4, then of 2, decay 0.9 (pitfall F8)."""
    running = online(None, 4.0, 0, rule, 0.9)
    assert online(running, 2.0, 1, rule, 0.9) == pytest.approx(value)


class TestPath:
    def descend(self, rate: float, steps: int) -> SI:
        """Gradient descent on 1/2 x^T diag(1, 3) x from (1, 1)."""
        model, hook = Two([1.0, 1.0]).double(), SI(damping_unit="absolute")
        view = View(model, World())
        hook.first = {"w": model.w.detach().clone()}
        hook.last = dict(hook.first)
        for _ in range(steps):
            model.w.grad = torch.tensor([1.0, 3.0]).double() * model.w.detach()
            with torch.no_grad():
                hook.pull(view, context())
                model.w.sub_(rate * model.w.grad)
                hook.track(view, context())
        return hook

    @pytest.mark.parametrize(("rate", "total"), [(0.1, 2.291), (0.01, 2.025), (0.001, 2.0025)])
    def test_sums_to_the_drop_of_the_loss(self, rate: float, total: float) -> None:
        path = self.descend(rate, int(9 / rate)).path["w"]
        assert float(path.sum()) == pytest.approx(total, abs=2e-3)
        if rate == 0.001:
            assert path.tolist() == pytest.approx([0.5, 1.5], abs=5e-3)

    def test_importance_is_path_over_squared_change(self) -> None:
        path = {"w": torch.tensor([0.5, -0.3, 0.2])}
        first, last = {"w": torch.zeros(3)}, {"w": torch.tensor([2.0, 1.0, 0.0])}
        found = path_importance(path, first, last, damping=1.0)["w"]
        assert found.tolist() == pytest.approx([0.1, 0.0, 0.2])

    def test_damping_may_follow_the_median_change(self) -> None:
        path = {"w": torch.tensor([0.5, 0.5, 0.5, 0.5])}
        first, last = {"w": torch.zeros(4)}, {"w": torch.tensor([1.0, 2.0, 3.0, 0.0])}
        found = path_importance(path, first, last, damping=0.5, unit="median")["w"]
        assert found.tolist() == pytest.approx([0.5 / (square + 2.0) for square in (1, 4, 9, 0)])

    def test_weights_that_no_step_moved_have_none(self) -> None:
        first = {"w": torch.ones(2), "v": torch.ones(1)}
        found = path_importance({"w": torch.ones(2)}, first, first, damping=1.0)
        assert found["v"].tolist() == [0.0]

    def test_penalties_of_others_are_not_integrated(self, stages: TinyStages) -> None:
        """o = -g dw = g lr (g + p) over one step of plain descent: g of the loss, p of the penalty.

        Were p in the integrated gradient, it would be lr (g + p)^2.
        """
        rate, strength = 0.5, 0.5
        train: dict[str, Any] = {"max_steps": 1, "learning_rate": rate, "max_grad_norm": 0.0}
        plain = stages.train(stages.job("sft", **train)).weights["model.norm.weight"]
        hooks = [
            {"l2_sp": {"of": "base", "strength": strength}},
            {"si": {"damping": 1.0, "damping_unit": "absolute"}},
        ]
        held = stages.train(stages.job("sft", hooks, **train))
        start = weights_of(stages.sft.output / "checkpoint")["model.norm.weight"]
        base = weights_of(stages.base / "checkpoint")["model.norm.weight"]
        g, p = (start - plain) / rate, strength * (start - base)
        moved = rate * (g + p)
        torch.testing.assert_close(start - held.weights["model.norm.weight"], moved)
        path = g * moved
        assert (path < 0).any()  # where they disagree
        assert float((path - rate * (g + p) ** 2).abs().max()) > 1e-2 * float(path.abs().max())
        expected = path.clamp(min=0) / (moved.square() + 1.0)
        torch.testing.assert_close(_path(held.job.output), expected, rtol=1e-3, atol=1e-6)

    def test_a_stage_without_it_cannot_be_protected(self, stages: TinyStages) -> None:
        with pytest.raises(HookError, match="si: pretrain measured no path: list si in that stage"):
            stages.train(stages.job("sft", {"si": {"of": "pretrain"}}))


def _path(folder: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    found = load_file(str(folder / "memory" / "si" / "path.safetensors"))
    weight: torch.Tensor = found["model.norm.weight"]
    return weight


class TestInAStage:
    def test_strong_enough_the_weights_stay(self, stages: TinyStages) -> None:
        start = weights_of(stages.sft.output / "checkpoint")
        hook = {"l2_sp": {"strength": 1e9, "style": "proximal"}}
        assert difference(stages.train(stages.job("sft", hook)).weights, start) < 1e-6

    def test_the_first_step_is_that_of_no_hook_where_the_anchor_is_the_start(
        self, stages: TinyStages
    ) -> None:
        hook = {"ewc": {"strength": 0.01, "samples": 4}}
        log = stages.train(stages.job("sft", hook, max_steps=2)).log
        assert log[0]["hook/ewc"] == log[0]["hook/ewc/grad_norm"] == 0
        assert log[1]["hook/ewc"] > 0

    def test_one_step_is_the_closed_form(self, stages: TinyStages) -> None:
        """w' = w - lr (g + strength (w - a)) under plain gradient descent that clips nothing."""
        train: dict[str, Any] = {"max_steps": 1, "learning_rate": 0.5, "max_grad_norm": 0.0}
        free = stages.train(stages.job("sft", **train)).weights
        hook = {"l2_sp": {"of": "base", "strength": 0.3}}
        held = stages.train(stages.job("sft", hook, **train)).weights
        start = weights_of(stages.sft.output / "checkpoint")
        base = weights_of(stages.base / "checkpoint")
        for name, value in free.items():
            expected = value - 0.5 * 0.3 * (start[name] - base[name])
            torch.testing.assert_close(held[name], expected, rtol=1e-5, atol=1e-6)

    def test_a_fisher_is_made_once(
        self, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from cpt import importance

        made: list[int] = []
        real = importance.diagonal_fisher

        def counted(*given: Any, **named: Any) -> Any:
            made.append(1)
            return real(*given, **named)

        monkeypatch.setattr(importance, "diagonal_fisher", counted)
        for strength in (0.001, 0.002):
            hook = {"ewc": {"of": "pretrain", "strength": strength, "samples": 5}}
            stages.train(stages.job("sft", hook, max_steps=1))
        assert len(made) == 1
        hook = {"ewc": {"of": "pretrain", "strength": 0.001, "samples": 6}}
        stages.train(stages.job("sft", hook, max_steps=1))
        assert len(made) == 2

    def test_the_base_is_protected_on_a_data_set(self, stages: TinyStages) -> None:
        hook = {"ewc": {"of": "base", "source": stages.data("general"), "strength": 0.002}}
        assert stages.train(stages.job("sft", hook)).log[0]["hook/ewc"] > 0

    def test_rows_without_answers_are_refused(self, stages: TinyStages) -> None:
        grpo = stages.train(stages.job("grpo", max_steps=1)).job
        job = stages.job("sft", {"ewc": {"samples": 4}}, parent=grpo.output)
        with pytest.raises(HookError, match=r"ewc: the rows of grpo have no answers"):
            stages.train(job)
        hook = {"mas": {"samples": 4, "strength": 0.001}}
        assert stages.train(stages.job("sft", hook, parent=grpo.output, max_steps=1)).log

    def test_new_tokens_have_no_importance(self, stages: TinyStages) -> None:
        from cpt.model_spec import ModelChange

        seen: list[Anchors] = []
        with pytest.MonkeyPatch.context() as patch:
            real = EWC.collect

            def watched(self: EWC, model: Any, ctx: Any) -> Anchors:
                seen.append(real(self, model, ctx))
                return seen[-1]

            patch.setattr(EWC, "collect", watched)
            for of in ("previous", "pretrain"):
                job = stages.job("sft", {"ewc": {"of": of, "strength": 0.001, "samples": 4}})
                change = ModelChange(add_tokens=["<|more|>"])
                stages.train(replace(job, spec=job.spec.model_copy(update={"model": change})))
        for anchors in seen:
            assert anchors.importance is not None
            table_ = anchors.importance["model.embed_tokens.weight"]
            assert (table_[-1] == 0).all()
            assert (table_[:-1] > 0).any()


@pytest.fixture(scope="module")
def kept(stages: TinyStages) -> list[Path]:
    """Two stages that trained one adapter, one after the other."""
    lora = {"lora": {"rank": 2, "after": "keep"}}
    first = stages.train(stages.job("sft", lora, learning_rate=0.5)).job
    on = {"lora": {"rank": 2, "after": "continue"}}
    renamed = replace(stages.job("sft", on, parent=first.output), name="second")
    return [first.output, stages.train(renamed).job.output]


class TestOnAnAdapter:
    """`lora: {after: continue}`: what is held are the adapter's numbers."""

    @pytest.mark.parametrize("name", ["ewc", "online_ewc", "mas", "l2_sp"])
    def test_an_anchor_is_the_adapter_that_its_stage_left(
        self, name: str, kept: list[Path], stages: TinyStages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from cpt.adapters import weights

        seen: list[Any] = []
        measure = Anchored.measure

        def watch(self: Anchored, model: Any, ctx: Any) -> None:
            measure(self, model, ctx)
            seen.append(self.anchors)

        monkeypatch.setattr(Anchored, "measure", watch)
        assert [stage.name for stage in manifest.read(kept[1]).past][-1] == "sft"
        hook = {name: {"of": ["sft"], "strength": 0.001}}
        lora = {"lora": {"rank": 2, "after": "continue"}}
        job = stages.job("sft", [lora, hook], parent=kept[1], max_steps=1)
        stages.train(job)
        left = weights(kept[0] / "adapter")
        (anchors,) = seen
        assert anchors.centre.keys() == left.keys()
        assert all(anchors.centre[n].equal(left[n].float()) for n in left)
        assert any(not weights(kept[1] / "adapter")[n].equal(left[n]) for n in left)

    def test_an_adapter_on_other_weights_is_no_anchor(self, stages: TinyStages) -> None:
        merged = stages.train(stages.job("sft", {"lora": {"rank": 2}})).job
        lora = {"lora": {"rank": 2, "after": "keep"}}
        below = replace(stages.job("sft", lora, parent=merged.output), name="kept")
        kept = stages.train(below).job
        hooks = {"lora": {"rank": 2, "after": "continue"}, "l2_sp": {"of": "sft"}}
        job = stages.job("sft", hooks, parent=kept.output, max_steps=1)
        with pytest.raises(HookError, match="lies on other weights than this stage's"):
            stages.train(job)


class TestOrder:
    """At `track`: what moves weights, then what looks at them."""

    def test_an_average_is_of_weights_behind_the_proximal_step(self) -> None:
        ema, prox = EMA(0.0), with_anchor(L2SP(strength=1.0, style="proximal"), [0.0, 0.0], None)
        stack = HookStack([ema, prox], context(1.0))
        model = Two([2.0, 4.0])
        with torch.no_grad():
            stack.track(View(model, World()))
        assert model.w.tolist() == [1.0, 2.0]
        assert ema.mean["w"].tolist() == [1.0, 2.0]

    def test_a_path_has_the_real_change(self) -> None:
        si, prox = SI(), with_anchor(L2SP(strength=1.0, style="proximal"), [0.0, 0.0], None)
        model = Two([2.0, 4.0])
        si.first = si.last = {"w": model.w.detach().clone()}
        si.gradient = {"w": torch.tensor([1.0, 1.0])}
        with torch.no_grad():
            HookStack([si, prox], context(1.0)).track(View(model, World()))
        assert si.path["w"].tolist() == [1.0, 2.0]
        assert si.last["w"].tolist() == [1.0, 2.0]


class TestRefusals:
    def test_steps_that_16_bits_cannot_tell(self) -> None:
        with pytest.raises(
            HookError, match=r"l2_sp: style: proximal .* in bfloat16; load the model"
        ):
            L2SP(style="proximal").measure(Two([0.0, 0.0]).bfloat16(), context())

    @pytest.mark.parametrize(
        ("name", "settings", "message"),
        [
            ("ewc", {"strength": -1}, "strength: input should be greater than or equal to 0"),
            ("ewc", {"strength": float("nan")}, "strength: input should be a finite number"),
            ("ewc", {"labels": "argmax"}, "labels: argmax makes the Fisher vanish"),
            ("ewc", {"samples": 0}, "samples: input should be greater than or equal to 1"),
            ("online_ewc", {"decay": 1.5}, "decay: input should be less than or equal to 1"),
            ("si", {"damping": 0}, "damping: input should be greater than 0"),
            ("l2_sp", {"style": "hard"}, "style: input should be 'gradient' or 'proximal'"),
        ],
    )
    def test_settings(self, name: str, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            table.build(name, settings, "sft.yaml")

    def test_argmax_may_be_had_all_the_same(self) -> None:
        assert table.build("ewc", {"labels": "argmax", "allow_biased": True}, "sft.yaml")

    def test_nothing_is_held_without_a_measurement(self) -> None:
        hook: Anchored = OnlineEWC()
        with pytest.raises(HookError, match="online_ewc: nothing was measured"):
            pulled(hook, Two([0.0, 0.0]))
