"""How answers ended, told to a stand-in for HFLM in the order of its batches."""

import copy
import pickle
from types import SimpleNamespace
from typing import Any

from eval.behaviour.reply import Reply
from eval.endings import noted

LETTERS = ".abcdefgh"
SETTINGS = {"until": ["d"], "max_gen_toks": 4}


def harness(eos: Any = 0) -> Any:
    """Its tokens are places in `LETTERS`; 0 ends a text."""
    config = SimpleNamespace(eos_token_id=eos)
    return SimpleNamespace(
        model=SimpleNamespace(generation_config=config),
        eot_token_id=0,
        cache_hook="before",
        tok_decode=lambda row: "".join(LETTERS[token] for token in row),
    )


def test_answers_of_several_batches_know_how_they_ended() -> None:
    fake = harness()
    with noted(fake) as endings:
        fake.cache_hook.note([[1, 2, 0, 0], [1, 1, 1, 1]], ["d"])
        fake.cache_hook.add_partial("generate_until", ("short", SETTINGS), "ab")
        fake.cache_hook.add_partial("generate_until", ("long", SETTINGS), "aaaa")
        fake.cache_hook.note([[1, 4, 1, 1]], ["d"])
        fake.cache_hook.add_partial("generate_until", ("stopped", SETTINGS), "a")
    assert fake.cache_hook == "before"
    found = [
        endings.reply(prompt, SETTINGS, text)
        for prompt, text in (("long", "aaaa"), ("stopped", "a"), ("short", "ab"))
    ]
    assert found == ["aaaa", "a", "ab"]
    assert [reply.num_tokens for reply in found] == [4, None, 2]
    assert [reply.has_ended for reply in found] == [False, True, True]


def test_every_end_that_the_model_knows_counts() -> None:
    fake = harness([7, 8])
    with noted(fake) as endings:
        endings.note([[1, 8, 8], [0, 0, 0], [1, 1, 7]], [])
        assert [*endings.waiting] == [(1, True), (0, True), (2, True)]
    with noted(harness(None)) as endings:
        assert endings.ends == {0}


def test_one_prompt_may_have_several_sampled_answers() -> None:
    with noted(harness()) as endings:
        endings.note([[1, 0], [2, 2]], [])
        endings.add_partial("generate_until", ("p", SETTINGS), "a")
        endings.add_partial("generate_until", ("p", SETTINGS), "bb")
    assert endings.reply("p", SETTINGS, "bb").has_ended is False
    assert endings.reply("p", SETTINGS, "a").has_ended is True


def test_a_reply_is_text_and_keeps_its_ending_when_it_is_copied() -> None:
    reply = Reply("text", 3, False)
    for other in (copy.deepcopy(reply), pickle.loads(pickle.dumps(reply))):
        assert (other, other.num_tokens, other.has_ended) == ("text", 3, False)
    assert type(str(reply)) is str
    assert (Reply("x").num_tokens, Reply("x").has_ended) == (None, None)
