"""The cache of outcomes: by content, made once by all processes together, refused where tokens changed."""

import copy
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cpt.errors import HookError
from cpt.logit_cache import Kept, LogitCache, content, logit_cache, measured
from cpt.positions import Sure
from cpt.rehearsal import IGNORED, Example
from cpt.topk import most_likely
from cpt.world import World
from tests.toy_model import VOCABULARY, Toy, ToyPast, encode, rows


@dataclass
class Meeting:
    """Where two threads sum their tensors."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    brought: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Two(World):
    """One of two processes, which are threads."""

    meeting: Meeting = field(default_factory=Meeting)

    def sum_(self, value: Tensor) -> Tensor:
        self.meeting.brought[self.rank] = value.clone()
        self.meeting.barrier.wait(30)
        value.copy_(self.meeting.brought[0] + self.meeting.brought[1])
        self.meeting.barrier.wait(30)
        return value


@pytest.fixture
def past(tmp_path: Path) -> ToyPast:
    return ToyPast(tmp_path, {"old": (3, rows(20))})


@pytest.mark.parametrize("counted", ["labels", "all"])
def test_what_is_kept_is_the_models_own_at_the_positions_that_count(counted: Any) -> None:
    model, examples = Toy(3), encode(rows(20))
    made = measured(copy.deepcopy(model), examples, Kept(4, counted, 2.0), World())
    cache = LogitCache(made, "lwf")
    for example in examples:
        positions = range(len(example.input_ids) - 1)
        if counted == "labels":
            positions = range(1, len(example.input_ids) - 1)  # behind a prompt of two tokens
        wanted = most_likely(model.logits(example)[list(positions)].detach(), 4, 2.0)
        found = cache.of(example)
        assert found.tokens.equal(wanted.tokens)
        torch.testing.assert_close(found.logs, wanted.logs)
        torch.testing.assert_close(found.rest, wanted.rest)


def test_a_prompts_last_position_is_kept() -> None:
    prompt = Example([1, 2, 3], [IGNORED] * 3)
    made = measured(Toy(3), [prompt], Kept(4, "all"), World())
    assert made["starts"].tolist() == [0, 3]


def test_positions_where_the_model_is_not_sure_are_marked() -> None:
    model, examples = Toy(3), encode(rows(20))
    made = measured(copy.deepcopy(model), examples, Kept(4, "all", sure=Sure(2.0)), World())
    logs = torch.cat([model.logits(e)[:-1] for e in examples]).log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    assert made["kept"].tolist() == (entropy <= 2.0).float().tolist()
    assert 0 < made["kept"].mean() < 1


@pytest.mark.parametrize("number", [1, 7, 20, 40])
def test_two_processes_keep_what_one_keeps(number: int) -> None:
    """Each runs its share; all of it is in both, to the bit."""
    model, examples = Toy(3), encode(rows(number))
    kept, meeting, found = Kept(4, "labels"), Meeting(), dict[int, dict[str, Tensor]]()

    def work(rank: int) -> None:
        world = Two(rank, 2, meeting=meeting)
        found[rank] = measured(copy.deepcopy(model), examples, kept, world)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one = measured(copy.deepcopy(model), examples, kept, World())
    assert one.keys() == found[0].keys() == found[1].keys()
    for name, value in one.items():
        assert value.equal(found[0][name]), name
        assert value.equal(found[1][name]), name


def test_it_is_made_once_and_read_from_its_file(past: ToyPast, tmp_path: Path) -> None:
    from functools import partial

    from stages.cache import cached

    ctx, stage = past.context(), past.past[1]
    ctx.cached = partial(cached, tmp_path / "cache", World())
    examples = encode(rows(20))
    first, second = (
        logit_cache(stage, examples, Kept(4, "labels"), Toy(0), "der", ctx) for _ in range(2)
    )
    assert past.loaded == ["old"]
    for name, value in first.tensors.items():
        assert value.equal(second.tensors[name])
    # Whatever their order: other rows, or as many of another kind, are another cache.
    for other in (examples[:-1], examples[::-1]):
        logit_cache(stage, other, Kept(4, "labels"), Toy(0), "der", ctx)
    logit_cache(stage, examples, Kept(4, "all"), Toy(0), "der", ctx)
    logit_cache(stage, examples, Kept(4, "labels", 2.0), Toy(0), "der", ctx)
    assert len(past.loaded) == 5


def test_the_place_of_a_row_does_not_matter(past: ToyPast) -> None:
    examples = encode(rows(20))
    cache = logit_cache(past.past[1], examples, Kept(4, "labels"), Toy(0), "der", past.context())
    ahead = cache.outcomes([examples[3], examples[7]], "cpu")
    back = cache.outcomes([examples[7], examples[3]], "cpu")
    split = examples[3].num_labels
    assert ahead.tokens[:split].equal(back.tokens[-split:])
    assert len(ahead) == split + examples[7].num_labels


class TestRefusals:
    def test_tokens_that_changed(self, past: ToyPast) -> None:
        examples, ctx = encode(rows(20)), past.context()
        cache = logit_cache(past.past[1], examples, Kept(4, "labels"), Toy(0), "der", ctx)
        one = examples[0]
        changed = [
            Example([*one.input_ids[:-1], 0], [*one.labels[:-1], 0]),
            Example(one.input_ids, one.input_ids),  # other labels
        ]
        for example in changed:
            with pytest.raises(HookError, match="der: the logit cache was made of other tokens"):
                cache.of(example)

    def test_a_file_whose_hashes_are_damaged(self, past: ToyPast) -> None:
        examples, ctx = encode(rows(20)), past.context()
        logit_cache(past.past[1], examples, Kept(4, "labels"), Toy(0), "der", ctx)
        (made,) = past.made.values()
        made["contents"][5, 0] += 1
        with pytest.raises(HookError, match="other tokens than this row's; remove its folder"):
            logit_cache(past.past[1], examples, Kept(4, "labels"), Toy(0), "der", ctx)

    def test_more_outcomes_than_tokens(self, past: ToyPast) -> None:
        kept = Kept(VOCABULARY + 1, "labels")
        with pytest.raises(HookError, match="der: 14 logits of a token are more than the vocabul"):
            logit_cache(past.past[1], encode(rows(3)), kept, Toy(0), "der", past.context())

    def test_another_vocabulary(self, past: ToyPast) -> None:
        with pytest.raises(HookError, match="old has 13 embeddings and this stage 15; add the tok"):
            logit_cache(
                past.past[1],
                encode(rows(3)),
                Kept(4, "labels"),
                Toy(0, VOCABULARY + 2),
                "der",
                past.context(),
            )


def test_content_is_tokens_and_which_are_labels() -> None:
    one = Example([1, 2, 3], [IGNORED, 2, 3])
    assert content(one) == content(Example([1, 2, 3], [IGNORED, 2, 3]))
    assert content(one) != content(Example([1, 2, 3], [1, 2, 3]))
    assert content(one) != content(Example([1, 2, 4], [IGNORED, 2, 4]))
    assert len(content(one)) == 32
