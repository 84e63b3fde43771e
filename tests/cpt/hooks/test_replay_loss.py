"""A loss on old rows beside the stage's own: its gradient, its strength, in every kind of stage."""

from collections.abc import Sequence
from typing import Any

import pytest

from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.base import points
from cpt.hooks.context import StageContext
from cpt.hooks.replay import Replay
from cpt.past import of_folder
from cpt.rehearsal import Example, drawn
from cpt.world import World
from stages.context import examples
from tests.tiny_stages import Interrupted, TinyStages, Trained, difference, equal

#: No clipping, which would make the step depend on both gradients at once.
STEP: dict[str, Any] = {
    "max_steps": 1,
    "max_grad_norm": 0.0,
    "learning_rate": 0.25,
    "lr_scheduler_type": "constant",
}


def ptx(of: str = "pretrain", **settings: Any) -> list[dict[str, Any]]:
    return [{"replay": {"of": of, "mode": "loss", "coefficient": 0.5, "batch_size": 5, **settings}}]


def old_examples(stages: TinyStages, of: str, tokenizer: Any) -> list[Example]:
    rows = of_folder(stages.sft.output).select(of)[0].rows()
    return examples(rows, tokenizer, stages.job("sft").spec)


def gradient_of_mean(stages: TinyStages, batch: list[Example]) -> dict[str, Any]:
    """Of the mean over all label tokens, by transformers' own loss, one row at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(stages.sft.output / "checkpoint")
    tokens = sum(example.num_labels for example in batch)
    for example in batch:
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        logits = model(input_ids=ids).logits[0, :-1]
        torch.nn.functional.cross_entropy(
            logits, labels[0, 1:], ignore_index=-100, reduction="sum"
        ).div(tokens).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def terms(trained: Trained) -> list[float]:
    return [row["hook/replay"] for row in trained.log if "hook/replay" in row]


@pytest.mark.parametrize("of", ["pretrain", "sft"])
def test_its_gradient_is_coefficient_times_that_of_the_mean(
    of: str, stages: TinyStages, tiny_tokenizer: Any
) -> None:
    """theta(1) with the hook - theta(1) without = -lr * coefficient * gradient of the old rows' mean loss.

    Neither prompts nor padding count, and the stage's own loss keeps its weight (pitfalls F26, F27).
    """
    without = stages.train(stages.job("sft", **STEP)).weights
    with_it = stages.train(stages.job("sft", ptx(of), **STEP)).weights
    all_old = old_examples(stages, of, tiny_tokenizer)
    batch = [all_old[number] for number in drawn(len(all_old), 5, 0, seed=5)]
    gradient = gradient_of_mean(stages, batch)
    for name in without:
        expected = -0.25 * 0.5 * gradient[name]
        assert (with_it[name] - without[name]).allclose(expected, atol=2e-6), name


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo", "pretrain"])
def test_it_acts_in_every_kind_and_is_logged(kind: str, stages: TinyStages) -> None:
    plain = stages.train(stages.job(kind, max_steps=2))
    with_it = stages.train(stages.job(kind, ptx("sft"), max_steps=2))
    assert difference(plain.weights, with_it.weights) > 1e-4
    assert len(terms(with_it)) == 2
    assert all(term > 0 for term in terms(with_it))


@pytest.mark.parametrize("select", ["uniform", "collateral"])
def test_accumulation_does_not_change_its_strength(select: str, stages: TinyStages) -> None:
    """5 rows over 1 micro-batch and over 8, of which 3 then have none."""
    whole = stages.train(stages.job("dpo", ptx(select=select), micro_batch=8))
    pieces = stages.train(stages.job("dpo", ptx(select=select), micro_batch=1))
    assert difference(whole.weights, pieces.weights) < 1e-5
    assert terms(whole) == pytest.approx(terms(pieces), rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"coefficient": 0.0}, {"coefficient": 0.0, "schedule": {"start": 0.0}}], ids=str
)
def test_coefficient_zero_is_no_hook_to_the_bit(
    settings: dict[str, Any], stages: TinyStages
) -> None:
    without = stages.train(stages.job("sft"))
    off = stages.train(stages.job("sft", ptx(**settings)))
    assert equal(without.weights, off.weights)
    assert [row["loss"] for row in without.log] == [row["loss"] for row in off.log]


def test_its_coefficient_follows_the_schedule(stages: TinyStages) -> None:
    """Where nothing is learnt, the means of both stages are equal, and the terms' ratio is the line's."""
    line = {"start": 1.0, "tau": 1.0, "shape": "linear"}
    still: dict[str, Any] = {"learning_rate": 1e-12, "max_steps": 4}
    constant = stages.train(stages.job("sft", ptx(coefficient=1.0), **still))
    falling = stages.train(stages.job("sft", ptx(coefficient=0.2, schedule=line), **still))
    ratios = [one / other for one, other in zip(terms(falling), terms(constant), strict=True)]
    assert ratios == pytest.approx([1.0, 0.8, 0.6, 0.4], rel=1e-4)


def test_interrupted_equals_uninterrupted_with_what_it_learnt(stages: TinyStages) -> None:
    hooks = ptx("all", select="collateral")
    whole = stages.train(stages.job("sft", hooks, max_steps=6))
    job = stages.job("sft", hooks, max_steps=6, checkpoint_every=2)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=5)
    continued = stages.train(job)
    assert equal(whole.weights, continued.weights)
    assert terms(whole) == terms(continued)


def test_the_seed_decides_which_rows(stages: TinyStages) -> None:
    again = [
        stages.train(stages.job("sft", ptx(), **STEP, seed=seed)).weights for seed in (5, 5, 6)
    ]
    assert equal(again[0], again[1])
    assert not equal(again[1], again[2])


def test_it_acts_on_the_weights_below_an_adapter_too(stages: TinyStages) -> None:
    lora = {"lora": {"rank": 2}}
    plain = stages.train(stages.job("sft", [lora], max_steps=2))
    with_it = stages.train(stages.job("sft", [lora, *ptx()], max_steps=2))
    assert difference(plain.weights, with_it.weights) > 1e-5


def test_pairs_give_their_chosen_answers(stages: TinyStages, tiny_tokenizer: Any) -> None:
    hook = Replay(source=None, of="sft", mode="loss")
    rows = [{"prompt": "q: ", "chosen": "good", "rejected": "bad"}]
    (example,) = examples(rows, tiny_tokenizer, stages.job("sft").spec)
    learnt = [label for label in example.labels if label != -100]
    assert tiny_tokenizer.decode(learnt) == "good<|im_end|>"
    assert hook.batch_size == 8
    source = {"source": stages.data("pairs"), "mode": "loss"}
    trained = stages.train(stages.job("sft", [{"replay": source}], max_steps=1))
    assert (
        "of pairs the chosen answers are rehearsed" in (trained.job.output / "log.txt").read_text()
    )


def test_prompts_alone_are_refused(stages: TinyStages) -> None:
    hooks = [{"replay": {"source": stages.data("prompts"), "mode": "loss"}}]
    with pytest.raises(
        HookError, match=r"replay of prompts\.jsonl: no old row has a token to predict"
    ):
        stages.train(stages.job("sft", hooks))


def test_the_base_left_nothing(stages: TinyStages) -> None:
    with pytest.raises(HookError, match="replay: base left no rows"):
        stages.train(stages.job("sft", ptx("base")))


def test_collateral_learns_from_every_row_it_rehearses(stages: TinyStages) -> None:
    """Five rows a step, each step aged by 0.95."""
    from safetensors.torch import load_file

    job = stages.job("sft", ptx(select="collateral"), max_steps=6, checkpoint_every=2)
    with pytest.raises(Interrupted):
        stages.train(job, interrupt_at=5)
    state = load_file(job.partial / "trainer" / "checkpoint-4" / "hooks.safetensors")
    assert float(state["replay/seen"].sum()) == pytest.approx(5 * (1 + 0.95 + 0.95**2 + 0.95**3))
    assert (state["replay/forgotten"] <= state["replay/seen"]).all()


class TestItsPlaceAmongTheHooks:
    def test_other_modes_have_no_term(self) -> None:
        assert points(Replay()) == ("recall", "mix")
        assert points(Replay(mode="batch")) == ("recall", "mix")
        assert points(Replay(mode="loss")) == ("recall", "measure", "penalty")
        assert points(Replay(mode="loss", select="collateral"))[-1] == "track"

    def test_only_the_loss_asks_something_of_the_backend(self) -> None:
        assert (Replay().needs_as_set(), Replay().facts_as_set()) == (frozenset(), frozenset())
        loss = Replay(mode="loss")
        assert loss.needs_as_set() == frozenset({"logits"})
        assert loss.facts_as_set() == frozenset({"second_forward"})

    def test_settings_that_came_later_leave_ids_alone(self) -> None:
        old = {"of": "previous", "source": None, "share": 0.1, "unit": "tokens"}
        assert table.settings_of(Replay()) == old
        assert table.settings_of(Replay(mode="loss"))["coefficient"] == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "loss", "share": 0.1}, "share: mode: loss has none; it has coefficient and"),
        ({"mode": "loss", "unit": "tokens"}, "unit: mode: loss has none"),
        ({"coefficient": 0.1}, "coefficient: mode: stream has none; it has share and unit"),
        ({"mode": "batch", "batch_size": 4}, "batch_size: mode: batch has none"),
        ({"mode": "batch", "unit": "tokens"}, "counts the rows of a batch; write samples"),
        ({"mode": "batch", "schedule": {"start": 0.5}}, "every batch has the same number"),
        ({"schedule": {"start": 1.0}}, "schedule.start: a share is less than 1"),
        ({"select": "collateral"}, "select: collateral draws rows by what training forgets"),
        ({"select": "herding"}, "select: herding fills a buffer; add buffer"),
        (
            {"select": "kmeans", "buffer": {"size": 4, "policy": "reservoir"}},
            "a reservoir is a uniform sample; select: kmeans is not",
        ),
        ({"select": "quality", "buffer": {"size": 4}}, "quality and score: <column> go together"),
        ({"score": "rating"}, "quality and score: <column> go together"),
        ({"buffer": {"size": 0}}, "buffer.size: input should be greater than or equal to 1"),
        ({"coefficient": -1.0, "mode": "loss"}, "coefficient: input should be greater than"),
        ({"coefficient": float("nan"), "mode": "loss"}, "coefficient: input should be"),
        ({"batch_size": 0, "mode": "loss"}, "batch_size: input should be greater than"),
        ({"mode": "losses"}, "mode: input should be 'stream', 'batch' or 'loss'"),
        (
            {"mode": "loss", "source": {"path": "a/b", "revision": "v1", "streaming": True}},
            "a stream has no end",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        table.build("replay", settings, "sft.yaml")


def test_rows_beside_the_stream_go_through_the_stages_hygiene(stages: TinyStages) -> None:
    seen: list[tuple[str, int]] = []

    def clean(name: str, rows: Sequence[Any]) -> Sequence[Any]:
        seen.append((name, len(rows)))
        return rows[:7]

    hook = Replay(of="pretrain", mode="loss")
    ctx = StageContext("sft", "sft", ("messages", "text"), 5, World(), "")
    ctx.encode = lambda rows: [Example([1, 2, 3], [1, 2, 3]) for _ in rows]
    ctx.clean, ctx.num_steps = clean, 1
    hook.recall(of_folder(stages.sft.output), ctx)
    hook.measure(None, ctx)
    assert seen == [("replay of pretrain", 24)]
    assert hook.term is not None
    assert len(hook.term.rehearsal.examples) == 7


def test_rows_are_embedded_by_their_own_stage_and_not_by_the_adapter_above_it(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that is trained on starts on that stage's checkpoint, and is another model."""
    from cpt.checkpoint import load_model
    from cpt.replay import embed

    found: list[Any] = []
    own = embed.embeddings

    def noted(model: Any, rows: list[Example]) -> Any:
        found.append((rows, own(model, rows)))
        return found[-1][1]

    monkeypatch.setattr(embed, "embeddings", noted)
    # Not what another test has measured.
    monkeypatch.setattr("stages.context.cached", lambda folder, world, key, make: make())
    kept = stages.train(stages.job("pretrain", {"lora": {"rank": 2, "after": "keep"}}))
    assert (kept.job.output / "adapter").is_dir()
    hooks = [
        {"lora": {"rank": 2, "after": "continue"}},
        *ptx("sft", select="herding", buffer={"size": 5}),
    ]
    stages.train(stages.job("sft", hooks, parent=kept.job.output, max_steps=1))
    ((rows, values),) = found
    alone = own(load_model(str(stages.sft.output / "checkpoint")), rows)
    assert values.equal(alone)
    assert not values.allclose(
        own(load_model(str(kept.job.output / "checkpoint")), rows), atol=1e-4
    )
