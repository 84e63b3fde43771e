"""All numbers on the manners of one answer; what lm-eval calls for the tasks of `eval/tasks/behaviour`."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.behaviour.form import follows
from eval.behaviour.language import has_switched
from eval.behaviour.refusal import is_refusal
from eval.behaviour.repetition import distinct, has_loop, repeated, units
from eval.behaviour.reply import Reply

#: Metrics of how an answer ended, which its text does not say.
OF_ENDINGS = ("tokens", "cut_off")


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Every metric of `manners` on one answer, of one generation.

    words: its length. tokens, cut_off: its length in tokens, and 1 where it ran to the most that it may
    have; both only where the model is ours (`eval.behaviour.reply`). loop: 1 where 8 words in a row
    occur 3 times. rep_4, distinct_2: see `eval.behaviour.repetition`. switched: 1 where it is plainly
    in another language than the prompt's `language`. form: 1 where it has the prompt's `form`; only for
    prompts that ask for one.
    """
    reply = results[0]
    found = {
        "words": float(len(units(reply))),
        "loop": float(has_loop(reply)),
        "rep_4": repeated(reply, 4),
        "distinct_2": distinct(reply, 2),
        "switched": float(has_switched(reply, doc["language"])),
    }
    if isinstance(reply, Reply) and reply.num_tokens is not None:
        found["tokens"] = float(reply.num_tokens)
    if isinstance(reply, Reply) and reply.has_ended is not None:
        found["cut_off"] = float(not reply.has_ended)
    if doc["form"]:
        found["form"] = float(follows(doc["form"], reply))
    return found


def process_refusal(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether one answer refuses; the prompt says nothing about it, its task's name does."""
    return {"refused": float(is_refusal(results[0]))}
