"""The price on overlap with earlier adapters: against an explicit loop, strong, and as a projection."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt.adapters import weights
from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.hooks.ema import EMA
from cpt.hooks.o_lora import OLora
from cpt.hooks.stack import HookStack
from cpt.params import View, trainable
from cpt.past import Past, PastStage
from cpt.world import World
from tests.tiny_stages import TinyStages, difference, equal

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")
TARGETS = ["q_proj", "down_proj"]  # of 32 and of 64 inputs


def earlier(
    folder: Path, name: str, rank: int, targets: Any, model: Any, hook: str = "lora"
) -> Any:
    """A stage on disk whose adapter has random factors."""
    from cpt.hooks.lora import Lora
    from cpt.manifest import Manifest

    adapted: Any = Lora(rank=rank, targets=targets).adapt(model, CTX)
    for _, parameter in trainable(adapted):
        torch.nn.init.normal_(parameter, std=0.2)
    place = folder / name
    adapted.save_pretrained(place / "adapter")
    settings = {"name": hook, "settings": {"targets": targets, "after": "merge"}}
    Manifest(id=name, kind="sft", name=name, hooks=(settings,)).write(place)
    adapted.unload()
    return PastStage(name, name, "sft", place, str(place / "checkpoint"))


@pytest.fixture
def past(tmp_path: Path, tiny_model: Any) -> Past:
    """A base and two stages with adapters of rank 2 and 3."""
    torch.manual_seed(1)
    stages = [earlier(tmp_path, f"s{r}", r, TARGETS, tiny_model) for r in (2, 3)]
    return Past((PastStage("base", "base", "base", None, "base"), *stages))


def adapted(past: Past, model: Any, **settings: Any) -> tuple[OLora, Any]:
    """The hook and its model, whose A are random."""
    hook = OLora(rank=4, targets=TARGETS, **settings)
    hook.recall(past, CTX)
    torch.manual_seed(2)
    return hook, hook.adapt(model, CTX)


def explicit(past: Past, model: Any, hook: OLora) -> torch.Tensor:
    """R, module by module and stage by stage, with a graph."""
    total = torch.zeros((), dtype=torch.float64)
    for name, own in trainable(model):
        for stage in past.stages[1:] if ".lora_A." in name else ():
            assert stage.adapter is not None
            theirs = weights(stage.adapter)[name].double()
            for a in own.double():
                for b in theirs:
                    product = a @ b
                    if hook.normalise:
                        product = product / (a.norm() * b.norm())
                    total = total + hook.strength * product.abs() + hook.squared * product**2
    return total


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strength": 2.0, "squared": 0.3},
        {"normalise": True},
        {"normalise": True, "squared": 0.7},
    ],
    ids=str,
)
def test_the_penalty_and_its_gradient_are_those_of_an_explicit_loop(
    settings: dict[str, Any], past: Past, tiny_model: Any
) -> None:
    hook, model = adapted(past, tiny_model, **settings)
    expected = explicit(past, model, hook)
    own = dict(trainable(model))
    slopes = torch.autograd.grad(expected, list(own.values()), materialize_grads=True)
    for parameter in own.values():
        parameter.grad = torch.ones_like(parameter)
    told = hook.pull(View(model, World()), CTX)
    assert told is not None
    assert float(told[""]) == pytest.approx(float(expected.detach()), rel=1e-5)
    norm = float(sum(slope.double().square().sum() for slope in slopes)) ** 0.5
    assert float(told["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    for (name, parameter), slope in zip(own.items(), slopes, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad - 1, slope, rtol=1e-4, atol=1e-4)
        assert (".lora_A." in name) == bool(slope.any())


def test_only_the_new_adapter_trains(past: Past, tiny_model: Any) -> None:
    _, model = adapted(past, tiny_model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2
    assert all(".default." in name for name in names)


def descend(hook: OLora, model: Any, steps: int) -> list[float]:
    """Train on one sequence under the hook, as the trainer does. Returns: losses."""
    ids = torch.arange(10, 40)[None]
    optimizer = torch.optim.AdamW([p for _, p in trainable(model)], lr=1e-2)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / steps) ** 2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        hook.pull(View(model, World()), CTX)
        optimizer.step()
        decay.step()
        with torch.no_grad():
            hook.track(View(model, World()), CTX)
        losses.append(float(loss.detach()))
    return losses


def overlap(past: Past, model: Any) -> float:
    """The largest |entry| of all A_k A_j^T."""
    own = {name: p.detach() for name, p in trainable(model) if ".lora_A." in name}
    return max(
        float((own[name] @ weights(stage.adapter)[name].T).abs().max())
        for stage in past.stages[1:]
        if stage.adapter is not None
        for name in own
    )


def test_a_large_strength_drives_the_overlap_to_0_while_the_loss_falls(
    past: Past, tiny_model: Any
) -> None:
    hook, model = adapted(past, tiny_model, strength=50.0)
    before = overlap(past, model)
    losses = descend(hook, model, 100)
    assert before > 0.1
    assert overlap(past, model) < 1e-3
    assert losses[-1] < losses[0] - 0.05


class TestHard:
    def test_no_overlap_from_the_start_to_the_end(self, past: Past, tiny_model: Any) -> None:
        hook, model = adapted(past, tiny_model, projection="hard")
        assert overlap(past, model) < 1e-6
        losses = descend(hook, model, 20)
        assert losses[-1] < losses[0]
        assert overlap(past, model) < 1e-6
        assert any(p.any() for name, p in trainable(model) if ".lora_A." in name)

    def test_a_moving_average_is_projected_too(self, past: Past, tiny_model: Any) -> None:
        """It saw the weights before the projection."""
        hook, model = adapted(past, tiny_model, projection="hard")
        average = EMA(0.5)
        stack = HookStack([hook, average], CTX)
        seen: list[float] = []
        CTX.save_adapter = lambda model: seen.append(overlap(past, model))
        for name, parameter in trainable(model):
            if ".lora_A." in name:
                torch.nn.init.normal_(parameter.data, std=0.1)
        stack.track(View(model, World()))
        stack.merge(model)
        CTX.save_adapter = lambda model: None
        assert seen[0] < 1e-6

    def test_without_room_it_is_refused(self, tmp_path: Path, tiny_model: Any) -> None:
        stage = earlier(tmp_path, "wide", 30, TARGETS, tiny_model)
        hook = OLora(rank=4, targets=TARGETS, projection="hard")
        hook.recall(Past((stage,)), CTX)
        with pytest.raises(HookError, match=r"would take 30 \+ 4 of the 32 inputs of .*q_proj"):
            hook.adapt(tiny_model, CTX)


def test_nearly_full_is_said(tmp_path: Path, tiny_model: Any) -> None:
    said: list[str] = []
    ctx = StageContext("sft", "sft", ("messages",), 5, World(), "", say=said.append)
    stage = earlier(tmp_path, "wide", 22, TARGETS, tiny_model)
    hook = OLora(rank=4, targets=TARGETS)
    hook.recall(Past((stage,)), ctx)
    hook.adapt(tiny_model, ctx)
    assert len(said) == 1
    assert "adapters take 22 + 4 of the 32 inputs" in said[0]


class TestRefusals:
    def test_a_stage_without_an_adapter(self, past: Past) -> None:
        with pytest.raises(HookError, match=r"base trained no adapter; name the stages that did"):
            OLora(of="base", targets=TARGETS).recall(past, CTX)

    def test_other_targets(self, past: Past) -> None:
        with pytest.raises(HookError, match=r"s2 trained an adapter on \['q_proj', 'down_proj'\]"):
            OLora(targets="q_proj").recall(past, CTX)

    def test_modules_that_differ_all_the_same(self, past: Past, tiny_model: Any) -> None:
        """As of another architecture: the settings agree, the modules do not."""
        hook = OLora(targets=TARGETS)
        hook.recall(past, CTX)
        hook.earlier.pop(min(hook.earlier))
        with pytest.raises(HookError, match=r"on other modules than this one, such as"):
            hook.adapt(tiny_model, CTX)

    @pytest.mark.parametrize(
        "settings",
        [{"strength": -1}, {"squared": float("nan")}, {"projection": "firm"}, {"rank": 0}],
    )
    def test_settings(self, settings: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match=r"sft.yaml: hooks.o_lora: "):
            table.build("o_lora", settings, "sft.yaml")


def test_without_earlier_stages_it_is_lora(past: Past, tiny_model: Any) -> None:
    hook = OLora(targets=TARGETS)
    hook.recall(Past(past.stages[:1]), CTX)
    model = hook.adapt(tiny_model, CTX)
    assert hook.pull(View(model, World()), CTX) is None


@pytest.fixture(scope="module")
def parent(stages: TinyStages) -> Path:
    """A stage with an adapter that is in its weights."""
    job = stages.job("sft", {"lora": {"rank": 3}})
    return stages.train(replace(job, name="adapted")).job.output


class TestStages:
    def job(self, stages: TinyStages, parent: Path, micro_batch: int = 8, **settings: Any) -> Any:
        hooks = {"o_lora": {"rank": 2, "of": ["adapted"], **settings}}
        return stages.job("sft", hooks, parent=parent, micro_batch=micro_batch)

    def test_its_strength_does_not_depend_on_accumulation(
        self, stages: TinyStages, parent: Path
    ) -> None:
        whole = stages.train(self.job(stages, parent))
        pieces = stages.train(self.job(stages, parent, micro_batch=1))
        assert difference(whole.weights, pieces.weights) < 1e-5
        assert whole.log[0]["hook/o_lora"] > 0
        assert whole.log[0]["hook/o_lora/grad_norm"] > 0
        assert whole.log[0]["hook/o_lora"] == pytest.approx(pieces.log[0]["hook/o_lora"], rel=1e-5)

    def test_strength_0_is_lora_to_the_bit(self, stages: TinyStages, parent: Path) -> None:
        off = stages.train(self.job(stages, parent, strength=0.0))
        settings = {"lora": {"rank": 2, "alpha": 16.0}}
        plain = stages.train(stages.job("sft", settings, parent=parent, micro_batch=8))
        assert equal(off.weights, plain.weights)
        assert not equal(off.weights, stages.train(self.job(stages, parent)).weights)

    def test_the_hard_variant_is_0_in_what_is_saved(self, stages: TinyStages, parent: Path) -> None:
        folder = stages.train(self.job(stages, parent, projection="hard")).job.output
        own, theirs = weights(folder / "adapter"), weights(parent / "adapter")
        found = [float((own[n] @ theirs[n].T).abs().max()) for n in own if ".lora_A." in n]
        assert len(found) == 14
        assert max(found) < 1e-6
