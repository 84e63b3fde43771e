"""A-GEM against its card: the projection by hand, and the gradient of old rows from whole logits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpt.errors import HookError, RecipeError
from cpt.hooks import old_gradient as module
from cpt.hooks import table
from cpt.hooks.agem import AGEM
from cpt.hooks.context import StageContext
from cpt.hooks.old_gradient import inner, old_gradient
from cpt.params import View
from cpt.past import Past, PastStage
from cpt.rehearsal import Example, Rehearsal, drawn
from cpt.world import World
from tests.tiny_stages import Interrupted, TinyStages, difference, equal, weights_of

Given = Callable[[list[list[Tensor]]], None]


def context(**changes: Any) -> StageContext:
    return replace(StageContext("sft", "sft", ("messages",), 5, World(), ""), **changes)


def parameters(*gradients: Tensor | None) -> nn.Module:
    """A model `layers.0.w`, `layers.1.w`, ... with these gradients."""
    model = nn.Module()
    model.layers = nn.ModuleList()
    for gradient in gradients:
        layer = nn.Module()
        like = torch.zeros(3) if gradient is None else gradient
        layer.w = nn.Parameter(torch.zeros_like(like))
        layer.w.grad = None if gradient is None else gradient.clone()
        model.layers.append(layer)
    return model


def gradients(model: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


@pytest.fixture
def agem(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[AGEM, list[list[Tensor]]]]:
    """The hook, and the list of gradients that the old rows will have, one for each call."""

    def made(**settings: Any) -> tuple[AGEM, list[list[Tensor]]]:
        references: list[list[Tensor]] = []
        monkeypatch.setattr(
            "cpt.hooks.agem.old_gradient",
            lambda view, rehearsal, ctx: [r.clone() for r in references.pop(0)],
        )
        hook = AGEM(**settings)
        hook.rehearsal = Rehearsal([Example([1, 2], [1, 2])], 1, 5, "agem")
        return hook, references

    return made


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestProjection:
    def test_the_cards_fixture(self, agem: Any) -> None:
        """The mean is held, and a single old task is not: the documented non-guarantee."""
        first, second = vector(4, 1, 0), vector(-1, 2, 0)
        hook, references = agem()
        references.append([(first + second) / 2])
        model = parameters(vector(1, -3, 0.5))
        told = hook.project(View(model, World()), context())
        (edited,) = gradients(model)
        assert edited is not None
        torch.testing.assert_close(edited, vector(2, -2, 0.5), rtol=1e-12, atol=1e-12)
        assert float(edited @ first) == pytest.approx(6)
        assert float(edited @ second) == pytest.approx(-6)
        assert told["violated"] == 1
        assert float(told["cosine"]) == pytest.approx(-3 / (10.25 * 4.5) ** 0.5)
        assert float(told["grad_norm"]) == pytest.approx(4.5**0.5)

    def test_without_a_conflict_no_bit_changes(self, agem: Any) -> None:
        hook, references = agem()
        own, reference = vector(1, -3, 0.5), vector(4, 1, 0)
        references.append([reference, vector(0, 0, 0)])
        model = parameters(own, None)
        told = hook.project(View(model, World()), context())
        kept, missing = gradients(model)
        assert kept is not None
        assert kept.equal(own)
        assert missing is None
        assert told["violated"] == 0

    def test_edited_gradients_are_orthogonal(self, agem: Any) -> None:
        torch.manual_seed(0)
        for _ in range(20):
            own, reference = torch.randn(2000), torch.randn(2000)
            reference -= own * 0.3
            hook, references = agem()
            references.append([reference])
            model = parameters(own)
            hook.project(View(model, World()), context())
            (edited,) = gradients(model)
            assert edited is not None
            bound = 1e-6 * float(own.norm() * reference.norm())
            assert abs(float(edited.double() @ reference.double())) < bound

    def test_no_other_vector_is_nearer(self, agem: Any) -> None:
        """The length of what is taken away is the distance to the plane."""
        own, reference = vector(1, -3, 0.5), vector(0, 2, 1)
        hook, references = agem()
        references.append([reference])
        model = parameters(own)
        hook.project(View(model, World()), context())
        (edited,) = gradients(model)
        assert edited is not None
        distance = -float(own @ reference / reference.norm())
        assert float((edited - own).norm()) == pytest.approx(distance)

    def test_a_parameter_that_the_stages_loss_does_not_reach(self, agem: Any) -> None:
        hook, references = agem()
        references.append([vector(-1, 0, 0), vector(1, 0, 0)])
        model = parameters(vector(2, 0, 0), None)
        hook.project(View(model, World()), context())
        first, second = gradients(model)
        assert first is not None
        assert second is not None
        assert first.tolist() == [1, 0, 0]
        assert second.tolist() == [1, 0, 0]

    def test_per_layer_edits_only_the_layers_in_conflict(self, agem: Any) -> None:
        hook, references = agem(per_layer=True)
        references.append([vector(1, 0, 0), vector(-1, 0, 0)])
        model = parameters(vector(5, 1, 0), vector(2, 1, 0))
        told = hook.project(View(model, World()), context())
        assert [g.tolist() for g in gradients(model) if g is not None] == [[5, 1, 0], [0, 1, 0]]
        assert told["violated"] == 0.5

    def test_layers_are_told_apart_by_their_number(self) -> None:
        from cpt.hooks.agem import _layers

        names = ["embed.weight", "model.layers.1.a.w", "model.layers.10.a.w", "model.layers.1.b.w"]
        assert _layers([*names, "head.weight"]) == [[0], [1, 3], [2], [4]]

    def test_every_uses_the_last_gradient_in_between(self, agem: Any) -> None:
        hook, references = agem(every=3)
        references += [[vector(-1, 0, 0)], [vector(0, -1, 0)]]
        seen = []
        for step in range(4):
            model = parameters(vector(1, 1, 1))
            hook.project(View(model, World()), context(step=step))
            (edited,) = gradients(model)
            assert edited is not None
            seen.append(edited.tolist())
        assert seen == [[0, 1, 1]] * 3 + [[1, 0, 1]]
        again = AGEM(every=3)
        again.load_state_dict(hook.state_dict())
        assert again.reference["layers.0.w"].equal(vector(0, -1, 0))
        assert AGEM().state_dict() == {}

    @pytest.mark.parametrize(
        ("step", "edited"), [((1.0, -3, 0.5), (2, -2, 0.5)), ((1, 3, 0.5), (1, 3, 0.5))]
    )
    def test_an_update_is_edited_as_a_gradient_is(
        self, step: tuple[float, ...], edited: tuple[float, ...], agem: Any
    ) -> None:
        """The card's numbers, as minus the step that an optimizer made of another gradient."""
        hook, references = agem(space="update")
        references.append([vector(1.5, 1.5, 0)])
        model = parameters(vector(7, 7, 7))
        (weights,) = model.parameters()
        with torch.no_grad():
            weights.copy_(vector(10, 20, 30))
            first = hook.project(View(model, World()), context())
            weights.sub_(vector(*step))
            hook.track(View(model, World()), context())
        assert first == {}
        torch.testing.assert_close(weights.data, vector(10, 20, 30) - vector(*edited))
        (own,) = gradients(model)
        assert own is not None
        assert own.tolist() == [7, 7, 7]
        again = AGEM(space="update")
        again.load_state_dict(hook.state_dict())
        assert again.told == hook.told
        assert hook.told["violated"] == (1 if edited != step else 0)
        assert hook.before == hook.due == []  # nothing is held between steps
        assert hook.bytes_per_weight() == 8

    @pytest.mark.parametrize(("space", "overlap"), [("gradient", -1.0), ("update", 0.0)])
    def test_adam_may_bring_the_conflict_back(self, space: str, overlap: float, agem: Any) -> None:
        """Its first step is the gradient's sign: of (2, -1, 0.5), which is orthogonal to r, (1, -1, 1)."""
        reference = vector(1, 2, 0)
        hook, references = agem(space=space)
        references.append([reference])
        model = parameters(vector(1, -3, 0.5))
        optimizer = torch.optim.Adam(model.parameters(), lr=1.0, eps=1e-12)
        with torch.no_grad():
            hook.project(View(model, World()), context())
        optimizer.step()
        with torch.no_grad():
            hook.track(View(model, World()), context())
        (weights,) = model.parameters()
        assert float(-weights.detach() @ reference) == pytest.approx(overlap, abs=1e-9)

    def test_a_gradient_that_is_not_finite_is_refused(self, agem: Any) -> None:
        hook, references = agem()
        references.append([vector(float("nan"), 0, 0)])
        with pytest.raises(HookError, match="agem: the gradient of old rows is not finite"):
            hook.project(View(parameters(vector(1, 1, 1)), World()), context())


def test_inner_products_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 7)
    torch.manual_seed(0)
    one, other = torch.randn(5, 11), torch.randn(5, 11).bfloat16()
    expected = float((one.double() * other.double()).sum())
    assert float(inner(one, other)) == pytest.approx(expected, rel=1e-12)
    assert inner(one, None) == inner(None, other) == 0


EXAMPLES = [
    Example([1, 5, 9, 30, 40], [-100, -100, 9, 30, 40]),
    Example([7, 8, 9], [7, 8, 9]),
    Example([3, 200, 4, 4, 4, 100, 7], [-100, 200, -100, 4, 4, 100, 7]),
]


def by_hand(model: Any, examples: list[Example]) -> dict[str, Tensor]:
    """Gradient of the mean of -log p over all label tokens; one row at a time, from whole logits."""
    total = torch.zeros(())
    for example in examples:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
        logs = logits.log_softmax(-1)
        for place, label in enumerate(example.labels[1:]):
            if label != -100:
                total = total - logs[place, label]
    names, tensors = zip(
        *((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True
    )
    loss = total / sum(example.num_labels for example in examples)
    made = torch.autograd.grad(loss, tensors, materialize_grads=True)
    return dict(zip(names, made, strict=True))


def assert_close(made: list[Tensor], expected: dict[str, Tensor]) -> None:
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    for one, other in zip(made, expected.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * scale)


class Half(World):
    """One of two processes, whose sum is made by the test."""

    def sum_(self, value: Tensor) -> Tensor:
        return value


class TestGradientOfOldRows:
    @pytest.mark.parametrize("micro_batch", [1, 2, 8])
    def test_it_is_that_of_the_mean_over_label_tokens(
        self, micro_batch: int, tiny_model: Any
    ) -> None:
        tiny_model.train()
        rehearsal = Rehearsal(EXAMPLES, 5, 3, "agem")
        order = [EXAMPLES[number] for number in drawn(3, 5, 2, 3)]
        ctx = context(step=2, micro_batch=micro_batch)
        made = old_gradient(View(tiny_model, World()), rehearsal, ctx)
        assert_close(made, by_hand(tiny_model, order))
        assert all(tensor.dtype == torch.float32 for tensor in made)

    def test_two_processes_sum_to_one(self, tiny_model: Any) -> None:
        rehearsal = Rehearsal(EXAMPLES, 5, 3, "agem")
        parts = [
            old_gradient(
                View(tiny_model, World()), rehearsal, context(world=Half(rank, 2), micro_batch=1)
            )
            for rank in range(2)
        ]
        whole = old_gradient(View(tiny_model, World()), rehearsal, context())
        for first, second, both in zip(*parts, whole, strict=True):
            torch.testing.assert_close(first + second, both, rtol=1e-4, atol=1e-7)

    def test_nothing_else_changes(self, tiny_model: Any) -> None:
        """No `.grad`, no weights, no random state, even with dropout, and no gradient of frozen weights."""
        tiny_model.config.attention_dropout = 0.5
        for layer in tiny_model.model.layers:
            layer.self_attn.attention_dropout = 0.5
        tiny_model.train()
        tiny_model.lm_head.requires_grad_(False)
        for parameter in tiny_model.parameters():
            parameter.grad = None
        before = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
        state = torch.get_rng_state()
        rehearsal = Rehearsal(EXAMPLES, 3, 3, "agem")
        with torch.no_grad():  # as in a trainer
            made = old_gradient(View(tiny_model, World()), rehearsal, context())
        plain = tiny_model.eval()
        exact = by_hand(plain, EXAMPLES)
        assert len(made) == len(exact)
        assert not all(torch.allclose(a, b) for a, b in zip(made, exact.values(), strict=True))
        assert torch.get_rng_state().equal(state)
        assert all(parameter.grad is None for parameter in tiny_model.parameters())
        assert equal(dict(tiny_model.state_dict()), before)

    def test_with_an_adapter_and_activation_checkpointing(self, tiny_model: Any) -> None:
        from cpt.hooks.lora import Lora

        torch.manual_seed(0)
        model: Any = Lora(rank=2).adapt(tiny_model, context())
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
        expected = by_hand(model, EXAMPLES)
        assert all("lora" in name for name in expected)
        model.train()
        calls: list[int] = []
        attention = tiny_model.model.layers[0].self_attn
        attention.register_forward_pre_hook(lambda *given: calls.append(1))
        for checkpointed in (False, True):
            if checkpointed:
                tiny_model.activation_checkpointing_enable({"use_reentrant": False})
            rehearsal = Rehearsal(EXAMPLES, 3, 3, "agem")
            made = old_gradient(View(model, World()), rehearsal, context())
            assert_close(made, expected)
        assert len(calls) == 1 + 2  # checkpointed, the second forward is made in the backward pass

    def test_in_the_precision_of_the_trainer(self, tiny_model: Any) -> None:
        seen: list[torch.dtype] = []
        tiny_model.model.layers[0].mlp.register_forward_hook(
            lambda module, args, output: seen.append(output.dtype)
        )
        rehearsal = Rehearsal(EXAMPLES, 3, 3, "agem")
        ctx = context(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
        old_gradient(View(tiny_model, World()), rehearsal, ctx)
        assert seen == [torch.bfloat16]


def stage_gradient(stages: TinyStages, kind: str, hooks: Any, **settings: Any) -> Any:
    """The first step's gradient after hooks, by plain gradient descent, and the log."""
    once: dict[str, Any] = {"max_steps": 1, "learning_rate": 0.1, "max_grad_norm": 1e6}
    trained = stages.train(stages.job(kind, hooks, **once, **settings))
    start = weights_of(stages.sft.output / "checkpoint")
    moved = {n: (start[n].double() - w.double()) / 0.1 for n, w in trained.weights.items()}
    return moved, trained.log[0]


@pytest.mark.parametrize(("kind", "micro_batch"), [("sft", 8), ("sft", 2), ("dpo", 4)])
def test_a_stages_gradient_is_edited_as_by_hand(
    kind: str, micro_batch: int, stages: TinyStages
) -> None:
    """The stage's own gradient from a stage without hooks, the old rows' from whole logits."""
    from cpt.checkpoint import load_model, load_tokenizer
    from cpt.data import load_rows
    from cpt.data_spec import DataSpec
    from stages.context import examples

    source = stages.data("general")
    hooks = {"agem": {"source": source, "batch_size": 6}}
    own, _ = stage_gradient(stages, kind, None, micro_batch=micro_batch)
    edited, log = stage_gradient(stages, kind, hooks, micro_batch=micro_batch)

    folder = str(stages.sft.output / "checkpoint")
    spec = stages.job(kind).spec
    rows = load_rows(DataSpec(**source), ("text",)).rows
    encoded = examples(rows, load_tokenizer(folder), spec)
    chosen = [encoded[number] for number in drawn(len(encoded), 6, 0, 5)]
    model = load_model(folder)
    reference = {name: r.double() for name, r in by_hand(model, chosen).items()}
    overlap = sum(float((own[name] * r).sum()) for name, r in reference.items())
    square = sum(float(r.square().sum()) for r in reference.values())
    assert overlap < 0, "the data must conflict"
    assert log["hook/agem/violated"] == 1
    assert log["hook/agem/grad_norm"] == pytest.approx(square**0.5, rel=1e-4)
    norm = sum(float(g.square().sum()) for g in own.values()) ** 0.5
    assert log["hook/agem/cosine"] == pytest.approx(overlap / square**0.5 / norm, rel=1e-3)
    for name, gradient in own.items():
        expected = gradient - overlap / square * reference[name]
        torch.testing.assert_close(edited[name], expected, rtol=1e-3, atol=1e-4 * norm)


def test_plain_gradient_descent_makes_the_edited_step_of_both(stages: TinyStages) -> None:
    settings = {"source": stages.data("general"), "batch_size": 6}
    gradient, log = stage_gradient(stages, "sft", {"agem": settings})
    update, _ = stage_gradient(stages, "sft", {"agem": {**settings, "space": "update"}})
    assert log["hook/agem/violated"] == 1
    for name, expected in gradient.items():
        torch.testing.assert_close(update[name], expected, rtol=1e-3, atol=1e-5)


def test_every_step_draws_anew_at_the_present_weights(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17: a gradient that was computed once and reused would be of other weights."""
    from cpt.checkpoint import load_model

    folder = str(stages.sft.output / "checkpoint")
    seen: list[Tensor] = []

    def watch(view: View, rehearsal: Rehearsal, ctx: StageContext) -> list[Tensor]:
        made = old_gradient(view, rehearsal, ctx)
        twin = load_model(folder)
        twin.load_state_dict(view.model.state_dict())
        numbers = drawn(len(rehearsal.examples), 8, ctx.step, ctx.seed)
        with torch.enable_grad():
            expected = by_hand(twin, [rehearsal.examples[number] for number in numbers])
        assert_close(made, expected)
        seen.append(made[0].clone())
        return made

    monkeypatch.setattr("cpt.hooks.agem.old_gradient", watch)
    source = stages.data("general")
    stages.train(stages.job("sft", {"agem": {"source": source}}, max_steps=3, micro_batch=4))
    assert len(seen) == 3
    assert not seen[0].equal(seen[1])


def test_what_is_not_said_is_the_stages_own(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a step, rows at a time, precision."""
    seen: list[StageContext] = []
    sizes: list[int] = []

    def watch(view: View, rehearsal: Rehearsal, ctx: StageContext) -> list[Tensor]:
        seen.append(ctx)
        sizes.append(rehearsal.size)
        return [torch.zeros_like(weights) for _, weights, _ in view.shards()]

    monkeypatch.setattr("cpt.hooks.agem.old_gradient", watch)
    stages.train(stages.job("sft", {"agem": {}}, batch_size=12, micro_batch=3, max_steps=1))
    (ctx,) = seen
    assert sizes == [12]
    assert (ctx.batch_size, ctx.micro_batch) == (12, 3)
    assert "Accelerator.autocast" in repr(ctx.autocast)


def test_memory_that_agrees_changes_nothing(stages: TinyStages) -> None:
    """The rows that the stage trains on, all of them: no conflict, and to the bit no hook."""
    hooks = {"agem": {"source": stages.data("chats"), "batch_size": 24}}
    settings: dict[str, Any] = {"max_steps": 1, "batch_size": 24}
    with_it = stages.train(stages.job("sft", hooks, **settings))
    assert with_it.log[0]["hook/agem/violated"] == 0
    assert with_it.log[0]["hook/agem/cosine"] == pytest.approx(1, abs=1e-4)
    assert equal(with_it.weights, stages.train(stages.job("sft", **settings)).weights)


def test_dropout_of_the_stage_does_not_see_it(stages: TinyStages) -> None:
    """A hook that never finds a conflict leaves the stage's random state alone."""
    lora = {"lora": {"rank": 2, "dropout": 0.5}}
    plain = stages.train(stages.job("sft", lora))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpt.hooks.agem.inner", lambda one, other: 1.0)
        hooks = {**lora, "agem": {"of": "pretrain"}}
        watched = stages.train(stages.job("sft", hooks))
    assert equal(plain.weights, watched.weights)


def test_activation_checkpointing_trains_the_same(stages: TinyStages) -> None:
    hooks = {"agem": {"source": stages.data("general")}, "kl": {"of": "base", "beta": 0.5}}
    plain = stages.train(stages.job("sft", hooks))
    checkpointed = stages.train(stages.job("sft", hooks, gradient_checkpointing=True))
    assert difference(plain.weights, checkpointed.weights) < 1e-5


def test_grpo_is_held_by_supervised_rows(stages: TinyStages) -> None:
    log = stages.train(stages.job("grpo", {"agem": {}}, max_steps=2)).log
    assert all(0 <= row["hook/agem/violated"] <= 1 for row in log)
    assert all(row["hook/agem/grad_norm"] > 0 for row in log)


def test_a_stale_gradient_survives_an_interruption(stages: TinyStages) -> None:
    hooks = {"agem": {"source": stages.data("general"), "every": 3}}
    whole = stages.train(stages.job("sft", hooks))
    job = stages.job("sft", hooks, checkpoint_every=2)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=3)
    assert equal(stages.train(job).weights, whole.weights)


def past(stages: TinyStages, *kinds: str) -> Past:
    from cpt.past import of_folder

    found = {stage.name: stage for stage in of_folder(stages.sft.output)}
    return Past(tuple(found[kind] for kind in kinds))


class TestRows:
    """What is drawn from, and what is refused."""

    @staticmethod
    def encode(rows: Any) -> list[Example]:
        return [Example([1, 2, n], [-100, -100, n]) for n, _ in enumerate(rows)]

    def test_all_stages_are_one_union(self, stages: TinyStages) -> None:
        hook = AGEM()
        assert hook.recalls() == ("all",)
        hook.recall(past(stages, "base", "pretrain", "sft"), context(encode=self.encode))
        assert hook.rehearsal is not None
        assert len(hook.rehearsal.examples) == 48
        assert hook.rehearsal.size == 8
        one = AGEM(of="sft", batch_size=3)
        one.recall(past(stages, "base", "pretrain", "sft"), context(encode=self.encode))
        assert one.rehearsal is not None
        assert (len(one.rehearsal.examples), one.rehearsal.size) == (24, 3)

    def test_what_planning_asks(self) -> None:
        from cpt.data_spec import DataSpec

        assert AGEM().rehearses()
        assert not AGEM(source=DataSpec(path="./x.jsonl")).rehearses()
        assert AGEM(source=DataSpec(path="./x.jsonl")).recalls() == ()
        assert AGEM().bytes_per_weight() == 4

    def test_prompts_without_answers_are_told_of(self, stages: TinyStages) -> None:
        def encode(rows: Any) -> list[Example]:
            labels = [-100] if "messages" in rows[0] else [1, 2]
            return [Example([1, 2][: len(labels)], labels)]

        said: list[str] = []
        hook = AGEM()
        three = past(stages, "base", "pretrain", "sft")
        hook.recall(three, context(encode=encode, say=said.append))
        assert said == ["agem: sft left no row with an answer, and constrains nothing"]
        with pytest.raises(HookError, match="agem of sft: no row there has a token to predict"):
            AGEM(of=["pretrain", "sft"]).recall(three, context(encode=encode))

    def test_a_base_model_has_no_rows(self) -> None:
        base = Past((PastStage("base", "x", "base", None, "x"),))
        with pytest.raises(HookError, match=r"agem: base left no rows .* or a data set"):
            AGEM().recall(base, context(encode=lambda rows: []))

    def test_a_source_is_sampled_uniformly(
        self, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from cpt.data_spec import DataSpec

        monkeypatch.setattr(module, "NUM_EXEMPLARS", 5)
        seen: list[Any] = []

        def encode(rows: Any) -> list[Example]:
            seen.append([row["text"] for row in rows])
            return self.encode(rows)

        spec = DataSpec(**stages.data("general"))
        for seed in (1, 2):
            AGEM(source=spec).recall(past(stages, "base"), context(encode=encode, seed=seed))
        assert [len(rows) for rows in seen] == [5, 5]
        assert seen[0] != seen[1]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"every": 0}, "every: input should be greater than or equal to 1, not 0"),
            ({"space": "weights"}, "space: input should be 'gradient' or 'update'"),
            ({"batch_size": 0}, "batch_size: input should be greater than or equal to 1"),
            ({"of": "sft", "source": {"path": "./x.jsonl"}}, "name either `of`"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            table.build("agem", settings, "sft.yaml")
