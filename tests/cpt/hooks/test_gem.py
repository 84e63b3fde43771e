"""GEM against its card: the fixture, the conditions of an optimum, and A-GEM where there is one memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.gem import GEM, MOST, dual
from cpt.params import View
from cpt.rehearsal import Example, Rehearsal
from cpt.world import World
from tests.cpt.hooks.test_agem import context, gradients, parameters, past, stage_gradient, vector
from tests.tiny_stages import TinyStages, equal


@pytest.fixture
def gem(monkeypatch: pytest.MonkeyPatch) -> Callable[..., GEM]:
    """The hook, whose stages' old rows have these gradients."""

    def made(*olds: Tensor, **settings: Any) -> GEM:
        waiting = [[old.clone()] for old in olds]
        monkeypatch.setattr(
            "cpt.hooks.gem.old_gradient", lambda view, rehearsal, ctx: waiting.pop(0)
        )
        hook = GEM(**settings)
        hook.rehearsals = [Rehearsal([Example([1, 2], [1, 2])], 1, 5, "gem") for _ in olds]
        return hook

    return made


def projected(hook: GEM, own: Tensor) -> tuple[Tensor, Any]:
    model = parameters(own)
    told = hook.project(View(model, World()), context())
    (edited,) = gradients(model)
    assert edited is not None
    return edited, told


class TestProjection:
    def test_the_cards_fixture(self, gem: Any) -> None:
        first, second, own = vector(4, 1, 0), vector(-1, 2, 0), vector(1, -3, 0.5)
        edited, told = projected(gem(first, second), own)
        torch.testing.assert_close(edited, vector(0, 0, 0.5), rtol=1e-9, atol=1e-9)
        assert float(edited @ first) >= -1e-9
        assert float(edited @ second) >= -1e-9
        assert told["violated"] == 1
        assert told["kept"] == pytest.approx(0.5 / float(own.norm()))

    @pytest.mark.parametrize("margin", [0.0, 0.5])
    def test_without_a_conflict_no_bit_changes(self, margin: float, gem: Any) -> None:
        """The margin is applied only where something is violated."""
        own = vector(1, -3, 0.5)
        edited, told = projected(gem(vector(4, 1, 0), vector(0, -2, 0), margin=margin), own)
        assert edited.equal(own)
        assert told == {"violated": 0.0, "kept": 1.0}

    def test_one_memory_is_agem(self, gem: Any) -> None:
        torch.manual_seed(0)
        for _ in range(10):
            own, old = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
            old -= 0.3 * own
            edited, _ = projected(gem(old), own)
            dot = min(0.0, float(own @ old))
            torch.testing.assert_close(edited, own - dot / float(old @ old) * old)

    def test_opposite_memories_leave_what_neither_forbids(self, gem: Any) -> None:
        edited, told = projected(gem(vector(1, 0, 0), vector(-1, 0, 0)), vector(2, 1, 0))
        torch.testing.assert_close(edited, vector(0, 1, 0), rtol=0, atol=1e-9)
        assert told["kept"] == pytest.approx(5**-0.5)

    def test_over_constrained_leaves_nothing(self, gem: Any) -> None:
        olds = [vector(1, 0, 0), vector(-1, 0, 0), vector(0, 1, 0), vector(0, -1, 0)]
        edited, told = projected(gem(*olds), vector(2, 1, 0))
        assert float(edited.abs().max()) < 1e-9
        assert told["kept"] == pytest.approx(0, abs=1e-7)

    def test_a_gradient_that_is_not_finite_is_refused(self, gem: Any) -> None:
        with pytest.raises(HookError, match="gem: a gradient of old rows at step 0 is not finite"):
            projected(gem(vector(float("inf"), 0, 0)), vector(1, 0, 0))


class TestDual:
    """Karush-Kuhn-Tucker: u >= margin, slope P u + q >= 0, and (u - margin) * slope = 0, all in scale."""

    @staticmethod
    def check(own: Any, olds: Any, margin: float) -> Any:
        vectors = np.vstack([own, olds])
        weights = np.array(dual(vectors @ vectors.T, margin))
        edited = own + weights @ olds
        lengths, length = np.linalg.norm(olds, axis=1), np.linalg.norm(own)
        slopes = olds @ edited / lengths / length
        assert (weights >= margin).all()
        assert slopes.min() > -1e-9
        assert np.abs((weights - margin) * lengths / length * slopes).max() < 1e-9
        return edited

    @pytest.mark.parametrize("margin", [0.0, 0.5])
    @pytest.mark.parametrize("num_stages", [1, 2, 5, 10])
    def test_random_gradients(self, num_stages: int, margin: float) -> None:
        random = np.random.default_rng(num_stages)
        for _ in range(20):
            olds = random.normal(size=(num_stages, 30))
            own = random.normal(size=30) - olds.mean(0)
            self.check(own, olds, margin)

    def test_gradients_of_very_different_sizes(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(20):
            olds = random.normal(size=(5, 30)) * 10.0 ** random.uniform(-5, 5, size=(5, 1))
            self.check(random.normal(size=30), olds, 0.0)

    def test_the_same_memory_twice_is_once(self) -> None:
        """P is singular, u not unique, v is; the authors' solver needs a ridge here."""
        random = np.random.default_rng(0)
        for _ in range(20):
            olds = random.normal(size=(3, 30))
            own = random.normal(size=30) - olds.mean(0)
            once = self.check(own, olds, 0.0)
            twice = self.check(own, np.vstack([olds, olds[:2], 3 * olds[1:]]), 0.0)
            np.testing.assert_allclose(twice, once, atol=1e-9)

    def test_more_memories_than_dimensions(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(20):
            self.check(random.normal(size=4), random.normal(size=(10, 4)), 0.0)

    def test_a_memory_without_a_gradient_forbids_nothing(self) -> None:
        olds = np.array([[0.0, 0, 0], [-1, 0, 0]])
        vectors = np.vstack([[2.0, 1, 0], olds])
        weights = np.array(dual(vectors @ vectors.T, 0.0))
        np.testing.assert_allclose([2, 1, 0] + weights @ olds, [0, 1, 0], atol=1e-12)


def test_in_a_stage_one_memory_is_agem(stages: TinyStages) -> None:
    settings = {"source": stages.data("general")}
    agem, log = stage_gradient(stages, "sft", {"agem": settings})
    gem, other = stage_gradient(stages, "sft", {"gem": settings})
    assert log["hook/agem/violated"] == other["hook/gem/violated"] == 1
    assert 0 < other["hook/gem/kept"] < 1
    for name in agem:
        torch.testing.assert_close(gem[name], agem[name], rtol=1e-4, atol=1e-5)


def test_every_stage_is_a_memory_of_its_own(stages: TinyStages) -> None:
    hook = GEM(batch_size=4)
    found = past(stages, "base", "pretrain", "sft")
    hook.recall(found, context(encode=lambda rows: [Example([1, 2], [1, 2])] * len(rows)))
    assert [(len(one.examples), one.size) for one in hook.rehearsals] == [(24, 4), (24, 4)]


def test_memory_that_agrees_changes_nothing(stages: TinyStages) -> None:
    hooks = {"gem": {"source": stages.data("chats"), "batch_size": 24, "margin": 0.5}}
    settings: dict[str, Any] = {"max_steps": 1, "batch_size": 24}
    with_it = stages.train(stages.job("sft", hooks, **settings))
    assert with_it.log[0]["hook/gem/violated"] == 0
    assert equal(with_it.weights, stages.train(stages.job("sft", **settings)).weights)


@pytest.mark.parametrize(("of", "number"), [("previous", 1), (["a", "b"], 2), ("all", MOST)])
def test_it_holds_a_gradient_for_every_stage(of: Any, number: int) -> None:
    assert GEM(of=of).bytes_per_weight() == 4 * number
    assert GEM(of=of).rehearses()


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"margin": -0.1}, "margin: input should be greater than or equal to 0, not -0.1"),
            ({"margin": float("nan")}, "margin: input should be a finite number"),
            ({"of": ["sft", "sft"]}, "of: names a stage twice"),
            ({"of": "sft", "source": {"path": "./x.jsonl"}}, "name either `of`"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            table.build("gem", settings, "sft.yaml")

    def test_too_many_stages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        many = {f"stage {n}": [Example([1, 2], [1, 2])] for n in range(MOST + 1)}
        monkeypatch.setattr("cpt.hooks.gem.old_examples", lambda *arguments: many)
        with pytest.raises(HookError, match=r"gem: of: 11 stages, .* name 10 at most, or use agem"):
            GEM().recall(None, context())  # type: ignore[arg-type]
