"""Dark experience replay: old outputs and old labels, each over a draw of its own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cpt.errors import HookError, PlanError, RecipeError
from cpt.hooks import table
from cpt.hooks.der import DER
from cpt.rehearsal import IGNORED, Example, Rehearsal, hidden_states
from cpt.tokens import token_nll
from tests.cpt.conftest import ChainFolder
from tests.toy_model import VOCABULARY, Toy, ToyPast, encode, rows, tokens_of


@pytest.fixture
def past(tmp_path: Path) -> ToyPast:
    return ToyPast(tmp_path, {"old": (3, rows(20)), "new": (4, rows(20, 40))})


def opened(hook: DER, past: ToyPast, student: Toy) -> Any:
    """The hook behind its first verbs, and its context."""
    ctx = past.context()
    hook.recall(past.past, ctx)
    hook.measure(student, ctx)
    return ctx


def term_of(hook: DER, student: Toy, ctx: Any, part: tuple[int, int] = (0, 1)) -> Tensor:
    term = hook.penalty(student, tokens_of(student, encode(rows(2)), part), ctx)
    assert term is not None
    return term


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_weights_that_did_not_change_since_have_no_term(loss: Any, past: ToyPast) -> None:
    student = copy.deepcopy(past.models["old"])
    hook = DER("old", alpha=2.0, k=5, loss=loss)
    ctx = opened(hook, past, student)
    term = term_of(hook, student, ctx)
    term.backward()  # type: ignore[no-untyped-call]
    assert term.item() == pytest.approx(0.0, abs=1e-5)  # fp16 rounds what is kept
    assert all(float(p.grad.abs().max()) < 2e-3 for p in student.parameters())  # type: ignore[union-attr]
    other = Toy(0)
    assert term_of(hook, other, ctx).item() > 0.1


@pytest.mark.parametrize("k", [5, VOCABULARY])
def test_kl_term_is_the_mean_over_label_tokens_of_the_draw(k: int, past: ToyPast) -> None:
    """Each row against the model of its own stage."""
    student = Toy(0)
    hook = DER(["old", "new"], alpha=0.7, k=k, batch_size=10)
    ctx = opened(hook, past, student)
    assert hook.outputs is not None
    values, stages = [], set()
    for example in hook.outputs.step(0):
        stage = "old" if example in encode(rows(20)) else "new"
        stages.add(stage)
        r, p = (m.logits(example)[1:-1].softmax(-1) for m in (past.models[stage], student))
        tokens = r.topk(k).indices
        r, p = (
            torch.cat([x.gather(-1, tokens), 1 - x.gather(-1, tokens).sum(-1, True)], -1)
            for x in (r, p)
        )
        each = r * (r.clamp(min=1e-12) / p.clamp(min=1e-12)).log()
        values.append(each[:, :k].sum(-1) + (each[:, k] if k < VOCABULARY else 0))
    assert stages == {"old", "new"}
    expected = 0.7 * torch.cat(values).mean().item()
    assert term_of(hook, student, ctx).item() == pytest.approx(expected, rel=3e-3)


def test_mse_gradient_of_a_linear_model_is_the_closed_form(past: ToyPast) -> None:
    """2 alpha / n X^T (X w - z), both centred over the vocabulary."""
    student, teacher, alpha = Toy(0), past.models["old"], 0.3
    hook = DER("old", alpha=alpha, k=VOCABULARY, loss="mse")
    ctx = opened(hook, past, student)
    term_of(hook, student, ctx).backward()  # type: ignore[no-untyped-call]
    assert hook.outputs is not None
    x, z, y = [], [], []
    for example in hook.outputs.step(0):
        x.append(student.embed(torch.tensor(example.input_ids))[1:-1])
        y.append(student.logits(example)[1:-1])
        z.append(teacher.logits(example)[1:-1])
    inputs, apart = torch.cat(x), torch.cat(y) - torch.cat(z)
    apart = apart - apart.mean(-1, keepdim=True)
    closed = 2 * alpha / len(inputs) * apart.T @ inputs
    found = student.head.weight.grad
    assert found is not None
    assert ((found - closed).norm() / closed.norm()).item() < 2e-3  # fp16 rounds what is kept


def test_without_alpha_it_is_replay_as_a_loss(past: ToyPast) -> None:
    """beta * the mean loss of label tokens of rows that are drawn in the same order."""
    student = Toy(0)
    hook = DER("old", alpha=0.0, beta=0.6, batch_size=5)
    ctx = opened(hook, past, student)
    assert past.loaded == []
    assert not hook.compares()
    replay = Rehearsal(encode(rows(20)), 5, ctx.seed, "replay")
    for step in (0, 3):
        ctx.step = step
        batch = replay.batch(step, (0, 1), "cpu")
        assert batch is not None
        hidden = hidden_states(student, batch.forward)
        nll, _ = token_nll(hidden, student.head, batch.labels, batch.weight)
        assert term_of(hook, student, ctx).item() == pytest.approx(0.6 * nll.item(), rel=1e-6)


def test_the_two_terms_draw_apart_and_add_up(past: ToyPast) -> None:
    student, values = Toy(0), []
    for alpha, beta in ((0.5, 0.0), (0.0, 0.6), (0.5, 0.6)):
        hook = DER("old", alpha, beta, batch_size=5, k=5)
        ctx = opened(hook, past, student)
        values.append(term_of(hook, student, ctx).item())
        assert hook.outputs is not None
        assert hook.labels is not None
        assert hook.outputs.step(0) != hook.labels.step(0)
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_step_sum_to_the_whole(parts: int, past: ToyPast) -> None:
    """8 processes or micro-batches for 5 rows: those without a row have a term of 0, with a graph."""
    student = Toy(0)
    hook = DER("old", 0.5, 0.6, batch_size=5, k=5)
    ctx = opened(hook, past, student)
    whole = term_of(hook, student, ctx).item()
    terms = [term_of(hook, student, ctx, (part, parts)) for part in range(parts)]
    assert all(term.requires_grad for term in terms)
    assert sum(term.item() for term in terms) == pytest.approx(whole, rel=1e-5)


def test_each_model_is_asked_once_whatever_the_stages_that_list_it(past: ToyPast) -> None:
    for _ in range(2):
        opened(DER(["old", "new"], k=5), past, Toy(0))
    assert past.loaded == ["old", "new"]


def test_the_buffer_has_as_many_rows_of_every_stage(past: ToyPast) -> None:
    hook = DER("all", size=9, k=5)
    hook.recall(past.past, past.context())
    assert [(stage.name, len(part)) for stage, part in hook.rows] == [("old", 5), ("new", 4)]


def test_all_stages_are_those_that_left_rows(tmp_path: Path) -> None:
    """A merge trains on none."""
    past = ToyPast(tmp_path, {"old": (3, rows(20)), "merge": (4, [])})
    hook = DER("all", size=9, k=5)
    hook.recall(past.past, past.context())
    assert [(stage.name, len(part)) for stage, part in hook.rows] == [("old", 9)]
    with pytest.raises(HookError, match="der: merge left no rows"):
        DER(["old", "merge"]).recall(past.past, past.context())


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"alpha": 0}, "alpha and beta are 0, and nothing is left of it"),
            ({"alpha": -1}, "alpha: input should be greater than or equal to 0"),
            ({"beta": float("inf")}, "beta: input should be a finite number"),
            ({"k": 0}, "k: input should be greater than or equal to 1"),
            ({"k": 1, "loss": "mse"}, "k: one logit, centred, is always 0"),
            ({"loss": "l1"}, "loss: input should be 'kl' or 'mse'"),
            ({"size": 0}, "size: input should be greater than or equal to 1"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=f"hooks.der: {message}"):
            table.build("der", settings, "sft.yaml")

    def test_another_vocabulary(self, past: ToyPast) -> None:
        with pytest.raises(HookError, match="der: old has 13 embeddings and this stage 15"):
            opened(DER("old", k=5), past, Toy(0, VOCABULARY + 2))

    def test_another_vocabulary_when_planning(self, chain: ChainFolder) -> None:
        chain.stages["sft"] |= {"model": {"add_tokens": ["<tool>"]}, "hooks": ["der"]}
        with pytest.raises(PlanError, match=r"hooks.der: pretrain and this stage differ in '<too"):
            chain.plan()
        # Labels alone ask no model.
        chain.stages["sft"]["hooks"] = [{"der": {"alpha": 0, "beta": 0.5}}]
        assert chain.plan().node("sft").hooks[0][0] == "der"

    def test_rows_without_answers(self, past: ToyPast) -> None:
        hook, ctx = DER("old", k=5), past.context()
        hook.recall(past.past, ctx)
        ctx.encode = lambda given: [Example(r["ids"], [IGNORED] * len(r["ids"])) for r in given]
        with pytest.raises(HookError, match="der: old left rows without answers"):
            hook.measure(Toy(0), ctx)

    def test_the_base_model_left_no_rows(self, past: ToyPast) -> None:
        with pytest.raises(HookError, match="der: base left no rows"):
            DER("base").recall(past.past, past.context())

    @pytest.mark.parametrize(
        ("stage", "of", "words"),
        [
            ("dpo", "sft", "not in a dpo stage; in pretrain, sft"),
            ("grpo", "sft", "not in a grpo stage; in pretrain, sft"),
            ("pretrain", "previous", "'previous': the base model left no rows"),
        ],
    )
    def test_when_planning(self, stage: str, of: str, words: str, chain: ChainFolder) -> None:
        chain.stages[stage]["hooks"] = [{"der": {"of": of}}]
        with pytest.raises(PlanError, match=rf"hooks.der: {words}"):
            chain.plan()
