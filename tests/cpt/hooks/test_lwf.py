"""Learning without forgetting against closed forms over whole logits, without padding or chunks."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpt.data_spec import DataSpec
from cpt.errors import HookError, PlanError, RecipeError
from cpt.hooks import table
from cpt.hooks.backbone import FrozenReference
from cpt.hooks.lwf import LwF
from cpt.rehearsal import IGNORED, Example
from cpt.tokens import Direction, Tokens
from tests.cpt.conftest import ChainFolder
from tests.toy_model import VOCABULARY, Toy, ToyPast, encode, rows, tokens_of

BETA = 0.7
DIRECTIONS: list[Direction] = ["forward", "reverse", "js"]


@pytest.fixture
def past(tmp_path: Path) -> ToyPast:
    return ToyPast(tmp_path, {"old": (3, rows(20)), "prompts": (4, rows(20, 40, prompt=99))})


def opened(hook: LwF, past: ToyPast, student: Toy) -> Any:
    """The hook behind its first verbs, and its context."""
    ctx = past.context()
    hook.recall(past.past, ctx)
    hook.measure(student, ctx)
    return ctx


def distances(teacher: Toy, student: Toy, example: Example, temperature: float) -> Tensor:
    """[T]: T^2 KL(teacher || student)."""
    r = (teacher.logits(example) / temperature).softmax(-1)
    p = (student.logits(example) / temperature).softmax(-1)
    found: Tensor = temperature**2 * (r * (r / p).log()).sum(-1)
    return found.detach()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_general_term_is_the_mean_over_every_prediction_of_the_step(
    temperature: float, past: ToyPast
) -> None:
    student = Toy(0)
    hook = LwF("old", BETA, temperature, rows_of="old", batch_size=5)
    ctx = opened(hook, past, student)
    tokens = tokens_of(student, encode(rows(3)))
    for step in (0, 1):
        ctx.step = step
        assert hook.rehearsal is not None
        drawn = hook.rehearsal.step(step)
        assert len({len(example.input_ids) for example in drawn}) > 1
        values = [distances(past.models["old"], student, one, temperature)[:-1] for one in drawn]
        term = hook.penalty(student, tokens, ctx)
        assert term is not None
        assert term.item() == pytest.approx(BETA * torch.cat(values).mean().item(), rel=1e-5)


def test_of_prompts_the_last_position_counts_since_it_begins_the_answer(past: ToyPast) -> None:
    student = Toy(0)
    hook = LwF("old", BETA, rows_of="prompts", batch_size=5)
    past_encode = past.context
    past.context = lambda *a: _with_prompts(past_encode(*a))  # type: ignore[method-assign]
    ctx = opened(hook, past, student)
    assert hook.rehearsal is not None
    values = [distances(past.models["old"], student, one, 2.0) for one in hook.rehearsal.step(0)]
    term = hook.penalty(student, tokens_of(student, encode(rows(3))), ctx)
    assert term is not None
    assert term.item() == pytest.approx(BETA * torch.cat(values).mean().item(), rel=1e-5)


@pytest.mark.parametrize("cache", [None, 16])
def test_padding_changes_nothing(cache: int | None, past: ToyPast, tiny_model: Any) -> None:
    """A model that attends: rows side by side against each alone."""
    teacher = copy.deepcopy(tiny_model)
    torch.manual_seed(1)
    for parameter in teacher.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    past.models["old"] = teacher
    hook = LwF("old", 1.0, 1.0, rows_of="old", batch_size=5, cache=cache)
    ctx = opened(hook, past, tiny_model)
    assert hook.rehearsal is not None
    drawn = hook.rehearsal.step(0)
    assert len({len(example.input_ids) for example in drawn}) > 1
    values = []
    for example in drawn:
        with torch.no_grad():
            ids = torch.tensor([example.input_ids])
            r, p = (model(ids).logits[0, :-1].softmax(-1) for model in (teacher, tiny_model))
        if cache:
            kept = r.topk(cache).indices
            r, p = (x.gather(-1, kept) for x in (r, p))
            r, p = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1) for x in (r, p))
        values.append((r * (r / p).log()).sum(-1))
    tokens = tokens_of(Toy(0), encode(rows(2)))
    term = hook.penalty(tiny_model, tokens, ctx)
    assert term is not None
    assert term.item() == pytest.approx(
        torch.cat(values).mean().item(), rel=2e-3 if cache else 1e-4
    )


def _with_prompts(ctx: Any) -> Any:
    ctx.encode = lambda given: [Example(r["ids"], [IGNORED] * len(r["ids"])) for r in given]
    return ctx


@pytest.mark.parametrize("positions", ["labels", "prompt", "all"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_of_the_logits_of_new_inputs_is_the_closed_form(
    positions: Any, temperature: float, past: ToyPast
) -> None:
    """beta T (p - p0) m / n, with n the positions of the step."""
    student = Toy(0)
    student.head = nn.Identity()  # type: ignore[assignment]
    teacher = past.models["old"]
    hook = LwF("old", BETA, temperature, inputs="new", positions=positions)
    ctx = opened(hook, past, student)
    examples = encode(rows(4))
    tokens = tokens_of(Toy(1), examples)
    tokens.hidden = torch.randn(*tokens.weight.shape, VOCABULARY, requires_grad=True)
    term = hook.penalty(student, tokens, ctx)
    assert term is not None
    term.backward()  # type: ignore[no-untyped-call]
    assert tokens.hidden.grad is not None
    firsts = {"labels": (1, None), "prompt": (0, 1), "all": (0, None)}[positions]
    n = sum(len(range(len(e.input_ids) - 1)[slice(*firsts)]) for e in examples)
    expected = torch.zeros_like(tokens.hidden)
    for number, example in enumerate(examples):
        for place in range(len(example.input_ids) - 1)[slice(*firsts)]:
            p0 = (teacher.logits(example)[place] / temperature).softmax(-1)
            p = (tokens.hidden[number, place] / temperature).softmax(-1)
            expected[number, place] = BETA * temperature * (p - p0) / n
    torch.testing.assert_close(tokens.hidden.grad, expected.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("inputs", ["new", "general", "both"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_earlier_stage_itself_has_no_term_and_no_gradient(
    inputs: Any, direction: Direction, past: ToyPast
) -> None:
    student = copy.deepcopy(past.models["old"])
    more: dict[str, Any] = {} if inputs == "new" else {"rows_of": "old"}
    hook = LwF("old", 5.0, direction=direction, inputs=inputs, **more)
    ctx = opened(hook, past, student)
    term = hook.penalty(student, tokens_of(student, encode(rows(6))), ctx)
    assert term is not None
    term.backward()  # type: ignore[no-untyped-call]
    assert term.item() == pytest.approx(0.0, abs=1e-5)
    assert all(float(p.grad.abs().max()) < 1e-6 for p in student.parameters())  # type: ignore[union-attr]


def test_both_is_the_sum_of_its_means(past: ToyPast) -> None:
    student, values = Toy(0), {}
    for inputs in ("new", "general", "both"):
        more: dict[str, Any] = {} if inputs == "new" else {"rows_of": "old", "batch_size": 5}
        hook = LwF("old", BETA, inputs=inputs, **more)
        ctx = opened(hook, past, student)
        term = hook.penalty(student, tokens_of(student, encode(rows(6))), ctx)
        assert term is not None
        values[inputs] = term.item()
    assert values["both"] == pytest.approx(values["new"] + values["general"], rel=1e-6)


@pytest.mark.parametrize("cache", [None, 4])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_step_sum_to_the_whole(parts: int, cache: int | None, past: ToyPast) -> None:
    """8 = 8 processes or micro-batches for 5 rows: those without a row have a term of 0, with a graph."""
    student = Toy(0)
    totals, gradients = [], []
    for number in (1, parts):
        student.zero_grad()
        hook = LwF("old", BETA, rows_of="old", batch_size=5, cache=cache)
        ctx = opened(hook, past, student)
        total = 0.0
        for part in range(number):
            tokens = tokens_of(student, encode(rows(2)), (part, number))
            term = hook.penalty(student, tokens, ctx)
            assert term is not None
            assert term.requires_grad
            term.backward()  # type: ignore[no-untyped-call]
            total += term.item()
        totals.append(total)
        gradients.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_cache_of_all_tokens_is_the_live_model(direction: Direction, past: ToyPast) -> None:
    student, values = Toy(0), []
    for cache in (None, VOCABULARY, 4):
        hook = LwF("old", BETA, direction=direction, rows_of="old", cache=cache)
        ctx = opened(hook, past, student)
        term = hook.penalty(student, tokens_of(student, encode(rows(2))), ctx)
        assert term is not None
        values.append(term.item())
    assert values[1] == pytest.approx(values[0], rel=2e-3)
    assert 0 < values[2] < values[0]


def test_with_a_cache_no_model_is_loaded_in_training(past: ToyPast) -> None:
    student = Toy(0)
    hook = LwF("old", rows_of="old", cache=4)
    ctx = opened(hook, past, student)
    assert past.loaded == ["old"]
    ctx.reference = None
    assert hook.penalty(student, tokens_of(student, encode(rows(2))), ctx) is not None
    assert hook.loaded is None


@pytest.mark.parametrize("cache", [None, VOCABULARY])
def test_positions_where_the_earlier_stage_is_not_sure_are_left_out(
    cache: int | None, past: ToyPast
) -> None:
    """Of the rows of a whole pool; the mean still divides by all positions."""
    student, teacher = Toy(0), past.models["old"]
    hook = LwF("old", 1.0, 1.0, rows_of="old", batch_size=20, max_entropy=2.2, cache=cache)
    hook.min_probability = 0.15
    ctx = opened(hook, past, student)
    total, number, num_kept = 0.0, 0, 0
    for example in encode(rows(20)):
        p = teacher.logits(example)[:-1].softmax(-1)
        kept = (-(p * p.log()).sum(-1) <= 2.2) & (p.amax(-1) >= 0.15)
        total += float((distances(teacher, student, example, 1.0)[:-1] * kept).sum())
        number, num_kept = number + len(kept), num_kept + int(kept.sum())
    assert 0 < num_kept < number
    term = hook.penalty(student, tokens_of(student, encode(rows(2))), ctx)
    assert term is not None
    assert term.item() == pytest.approx(total / number, rel=2e-3 if cache else 1e-5)


def test_beta_0_reads_and_loads_nothing(past: ToyPast) -> None:
    student = Toy(0)
    hook = LwF("old", 0.0, rows_of="base")  # which left no rows
    ctx = opened(hook, past, student)
    assert hook.penalty(student, tokens_of(student, encode(rows(2))), ctx) is None
    assert past.loaded == []
    assert hook.rows == []
    assert not hook.compares()


def test_the_pool_has_as_many_rows_of_every_stage(past: ToyPast) -> None:
    hook = LwF("old", rows_of=["old", "prompts"], size=9)
    hook.recall(past.past, past.context())
    first = sum(row in rows(20) for row in hook.rows)
    assert (len(hook.rows), first) == (9, 5)
    again = LwF("old", rows_of=["old", "prompts"], size=9)
    again.recall(past.past, past.context())
    assert again.rows == hook.rows
    other = past.context()
    other.seed = 6
    again.recall(past.past, other)
    assert again.rows != hook.rows


def test_the_pool_may_be_a_data_set(past: ToyPast, tmp_path: Path) -> None:
    texts = [{"text": f"row {n}"} for n in range(30)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    hook = LwF("old", source=DataSpec(path=str(tmp_path / "texts.jsonl")), size=12)
    hook.recall(past.past, past.context("grpo"))  # whatever the stage itself trains on
    assert len(hook.rows) == 12
    numbers = [texts.index(row) for row in hook.rows]
    assert numbers == sorted(numbers) != list(range(12))


def test_a_reference_that_is_the_model_itself_is_refused(past: ToyPast) -> None:
    student = Toy(0)
    hook = LwF("old", rows_of="old")
    ctx = opened(hook, past, student)
    ctx.reference = lambda stage: FrozenReference(student)
    with pytest.raises(HookError, match="lwf: the reference is the model that is trained"):
        hook.penalty(student, tokens_of(student, encode(rows(2))), ctx)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"beta": -0.1}, "beta: input should be greater than or equal to 0"),
            ({"beta": float("nan")}, "beta: input should be a finite number"),
            ({"temperature": 0}, "temperature: input should be greater than 0"),
            ({"temperature": -1.0}, "temperature: input should be greater than 0"),
            ({"direction": "sideways"}, "direction: input should be 'reverse', 'forward' or 'js'"),
            ({"cache": 0}, "cache: input should be greater than or equal to 1"),
            ({"batch_size": 0}, "batch_size: input should be greater than or equal to 1"),
            ({"min_probability": 1.0}, "min_probability: input should be less than 1"),
            ({"of": "all"}, "`of` names one earlier stage"),
            ({"source": {"path": "./x"}, "rows_of": "old"}, "name either `rows_of`"),
            ({"inputs": "new", "rows_of": "old"}, "rows_of: has no meaning with inputs: new"),
            ({"inputs": "new", "cache": 8}, "cache: has no meaning with inputs: new"),
            ({"inputs": "new", "batch_size": 4}, "batch_size: has no meaning with inputs: new"),
            ({"inputs": "both", "cache": 8}, "cache: has no meaning with inputs: both"),
            ({"positions": "all"}, "positions: has no meaning with inputs: general"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=f"hooks.lwf: {message}"):
            table.build("lwf", settings, "sft.yaml")

    def test_the_base_model_left_no_rows(self, past: ToyPast) -> None:
        with pytest.raises(HookError, match="lwf: base left no rows"):
            LwF("old", rows_of="base").recall(past.past, past.context())

    def test_a_stage_that_is_not_there(self, past: ToyPast) -> None:
        with pytest.raises(HookError, match=r"no earlier stage 'odl'; did you mean 'old'"):
            LwF("odl", inputs="new").recall(past.past, past.context())

    def test_fewer_rows_than_stages(self, past: ToyPast) -> None:
        hook = LwF("old", rows_of=["old", "prompts"], size=1)
        with pytest.raises(HookError, match="a buffer of 1 rows has none for some of 2 stages"):
            hook.recall(past.past, past.context())

    @pytest.mark.parametrize(
        ("stage", "settings", "words"),
        [
            ("dpo", {"inputs": "new"}, "a dpo stage has the kl hook for its own batch"),
            ("grpo", {"inputs": "both"}, "a grpo stage has the kl hook for its own batch"),
            ("pretrain", {"inputs": "new", "positions": "prompt"}, "documents have no prompt"),
            ("pretrain", {}, "'previous': the base model left no rows"),
            ("sft", {"rows_of": "base"}, "'base': the base model left no rows"),
            ("sft", {"rows_of": "srft"}, "'srft' is no stage before this one"),
        ],
    )
    def test_when_planning(
        self, stage: str, settings: dict[str, Any], words: str, chain: ChainFolder
    ) -> None:
        chain.stages[stage]["hooks"] = [{"lwf": settings}]
        with pytest.raises(PlanError, match=rf"hooks.lwf.*{words}"):
            chain.plan()

    def test_another_vocabulary_of_the_model_and_not_of_the_rows(self, chain: ChainFolder) -> None:
        chain.stages["sft"] |= {"model": {"add_tokens": ["<tool>"]}, "hooks": []}
        chain.stages["dpo"]["hooks"] = [{"lwf": {"rows_of": "pretrain"}}]
        assert chain.plan().node("dpo").hooks[0][0] == "lwf"
        chain.stages["dpo"]["hooks"] = [{"lwf": {"of": "pretrain", "rows_of": "sft"}}]
        with pytest.raises(PlanError, match=r"hooks.lwf: pretrain and this stage differ in '<to"):
            chain.plan()

    @pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "grpo"])
    def test_general_inputs_go_everywhere(self, stage: str, chain: ChainFolder) -> None:
        settings = {"source": "texts.jsonl"} if stage == "pretrain" else {"rows_of": "pretrain"}
        chain.stages[stage]["hooks"] = [{"lwf": settings}]
        assert chain.plan().node(stage).hooks[0][0] == "lwf"


def test_tokens_know_of_their_step() -> None:
    """What `weight_at` divides by is told by the trainer; see `test_outputs.py`."""
    tokens = Tokens(torch.ones(1, 2), {}, torch.ones(1, 2, 3, requires_grad=True))
    assert tokens.nothing().item() == 0.0
    assert tokens.nothing().requires_grad
