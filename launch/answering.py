"""Answers of models to the same prompts, and a judge of them: each made once and kept."""

import argparse
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpt import checkpoint
from cpt.ids import short_hash
from cpt.store import Store
from eval.beside import answers as answering
from eval.beside.answers import Answers, Sampling
from eval.beside.endpoint import Endpoint
from eval.beside.judging import PROMPT, Judge, judge_key, win_rate
from eval.beside.kept import Kept
from eval.beside.prompts import Prompt
from eval.beside.story import Generations, Verdicts
from eval.progress import Meter
from launch.console import Console
from launch.naming import Model, models
from launch.probing import content_of
from launch.results import of


def answers_of(
    found: Sequence[Model], prompts: Sequence[Prompt], given: argparse.Namespace
) -> Generations:
    """Answers of every model, one model in memory at a time."""
    sampling = Sampling(given.max_new_tokens, given.temperature, given.seed, given.batch_size)
    console = Console()
    told, places = list[Answers](), list[str]()
    for model in found:
        file = (
            Store(given.runs).cache / "answers" / f"{_key(model, prompts, sampling, given)}.jsonl"
        )
        kept = Kept(file)
        if not answering.is_complete(kept, prompts):
            meter = Meter(console.progress(""))
            meter.name = f"answers of {model.label}"
            console.say(f"{meter.name}: {len(prompts)} prompts, {sampling}")
            loaded, tokenizer = _load(model, given)
            answering.answer(loaded, tokenizer, model.label, prompts, sampling, kept, meter)
            del loaded
            _free()
        told.append(answering.read_answers(model.label, kept, prompts))
        places.append(str(file))
    return Generations(tuple(prompts), sampling, tuple(told), tuple(places))


@dataclass(frozen=True)
class Opened:
    """A judge, where its replies are kept, and what shows how far it is."""

    judge: Judge
    kept: Kept
    meter: Meter


def open_judge(given: argparse.Namespace) -> Opened:
    """The judge that is named; no weights load yet.

    Before any answer is made, which takes long: an address or a model that does not do is refused here.

    Raises:
        RecipeError: there is none, or only a result.
    """
    meter = Meter(Console().progress(""))
    meter.name = "judge"
    judge, identity = _judge(given, meter)
    kept = Kept(Store(given.runs).cache / "judgements" / f"{judge_key(identity)}.jsonl")
    return Opened(judge, kept, meter)


def judged(generations: Generations, reference: str, opened: Opened) -> Verdicts:
    """Win rates of all models against the reference."""
    judge, kept, meter = opened.judge, opened.kept, opened.meter
    by_name = {answers.model: answers.texts for answers in generations.answers}
    rates = []
    for name, texts in by_name.items():
        if name != reference:
            meter.name = f"{judge.name} judges {name} against {reference}"
            pair = (reference, by_name[reference]), (name, texts)
            rates.append(win_rate(judge, kept, generations.prompts, *pair))
    return Verdicts(judge.name, PROMPT, tuple(rates))


class _LoadedWhenAsked:
    """A local judge whose weights load when there is something that it was not asked before."""

    def __init__(self, model: Model, given: argparse.Namespace, meter: Meter) -> None:
        self.model, self.given, self.meter = model, given, meter
        self.name = model.label
        self.judge: Judge | None = None

    def ask(self, questions: Any, kept: Kept) -> None:
        """See `Judge`."""
        if self.judge is None:
            from eval.beside.local_judge import LocalJudge

            loaded, tokenizer = _load(self.model, self.given)
            self.judge = LocalJudge(loaded, tokenizer, self.name, self.meter, self.given.batch_size)
        self.judge.ask(questions, kept)


def _judge(given: argparse.Namespace, meter: Meter) -> tuple[Judge, dict[str, Any]]:
    """The judge, and what its replies depend on."""
    if given.judge_model:
        judge = Endpoint(given.judge, given.judge_model, os.environ.get("OPENAI_API_KEY"), meter)
        Console().say(f"judge: prompts and answers that it has not seen are sent to {judge.url}")
        if judge.holds_key_back:
            Console().say("note: OPENAI_API_KEY stays here, since the address is no https")
        return judge, {"url": judge.url, "model": given.judge_model}
    _, model = models([given.judge], given.runs)
    _ = model.checkpoint  # refuses what has no weights
    content = content_of(of(given, model), model.stage)
    return _LoadedWhenAsked(model, given, meter), {"model": content, "dtype": given.dtype or "auto"}


def _key(
    model: Model, prompts: Sequence[Prompt], sampling: Sampling, given: argparse.Namespace
) -> str:
    """A name for all that answers depend on: batches are made of all prompts together."""
    parts = {
        "version": answering.VERSION,
        "model": content_of(of(given, model), model.stage),
        "dtype": given.dtype or "auto",
        "trust_remote_code": given.trust_remote_code,
        "sampling": vars(sampling),
        "prompts": [prompt.id for prompt in prompts],
    }
    return short_hash(parts, 16)


def _load(model: Model, given: argparse.Namespace) -> tuple[Any, Any]:
    from eval.loading import load
    from launch.quiet import hush_bars

    if model.stage:
        checkpoint.verify_stage(model.stage)
    hush_bars(given.verbose)
    return load(model.checkpoint, given.dtype or "auto", model.revision, given.trust_remote_code)


def _free() -> None:
    """Let the next model have the memory."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
