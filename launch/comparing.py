"""`cpt compare A B ...`: probes, answers and a judge's preferences side by side.

Answers lie in `cache/answers` and a judge's replies in `cache/judgements`, named by all that they depend on.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from cpt.actions import MARGIN
from cpt.errors import RecipeError
from cpt.ids import atomic_write
from eval.beside.page import html
from eval.beside.prompts import Prompt, read_prompts
from eval.beside.story import Story
from eval.beside.table import Table, compare_rows
from eval.beside.terminal import terminal
from eval.beside.texts import content, markdown
from launch.naming import Model, models
from launch.options import ANSWERING
from launch.results import results, stored

_ENDINGS = (".html", ".md", ".json")


def compare(given: argparse.Namespace, colour: bool, width: int) -> int:
    """Put models side by side; what is stored is not measured again.

    Raises:
        RecipeError: bad input: fewer than two models, no suite in common, an output of unknown kind.
        DataError: prompts that cannot be read.
        ProbeError: models that were measured differently, or that cannot be measured or asked.
    """
    _check(given)
    found, reference = _models(given)
    prompts = _prompts(given)
    if prompts is not None:
        for model in found:
            _ = model.checkpoint  # refuses what has no weights before anything is measured
    table = None
    if given.suite is not None or prompts is None or _share_a_suite(found, given):
        table = _table(found, reference, given)
    generations, verdicts = None, None
    if prompts is not None:
        from launch.answering import answers_of, judged, open_judge

        judge = open_judge(given) if given.judge else None
        generations = answers_of(found, prompts, given)
        verdicts = judged(generations, reference.label, judge) if judge else None
    story = Story(
        models=tuple((model.label, model.place) for model in found),
        reference=reference.label,
        table=table,
        generations=generations,
        verdicts=verdicts,
    )
    _tell(story, given, colour, width)
    return 0


def _check(given: argparse.Namespace) -> None:
    if given.output is not None and given.output.suffix not in _ENDINGS:
        raise RecipeError(f"--output {given.output}: its name ends in {' or '.join(_ENDINGS)}")
    if given.prompts is None:
        for name, default in ANSWERING.items():
            if getattr(given, name) != default:
                option = f"--{name.replace('_', '-')}"
                raise RecipeError(
                    f"{option} says how prompts are answered; name --prompts FILE too"
                )
    if given.seed and not given.temperature:
        raise RecipeError(f"--seed {given.seed}: greedy answers need none; name --temperature too")
    if given.judge and given.prompts is None:
        raise RecipeError("--judge compares answers; name --prompts FILE too")
    is_url = bool(given.judge) and given.judge.startswith(("http://", "https://"))
    if is_url and not given.judge_model:
        raise RecipeError(f"--judge {given.judge}: which model there? name it with --judge-model")
    if given.judge_model and not is_url:
        raise RecipeError(
            f"--judge-model {given.judge_model}: is a model behind an address; --judge names it, "
            f"such as --judge https://api.openai.com/v1"
        )


def _models(given: argparse.Namespace) -> tuple[list[Model], Model]:
    """The columns, and the one that the others are compared with."""
    found, reference = models(given.models, given.runs, given.stages, given.against)
    if len(found) < 2:
        raise RecipeError(
            f"{', '.join(given.models)}: is one model; name another one, or all stages of a chain "
            f"with --stages"
        )
    return found, reference


def _prompts(given: argparse.Namespace) -> tuple[Prompt, ...] | None:
    return None if given.prompts is None else read_prompts(given.prompts, given.num)


def _share_a_suite(found: Sequence[Model], given: argparse.Namespace) -> bool:
    """Whether there is one to show beside answers, for which no suite was named."""
    kept = [set(stored(model, given)) for model in found]
    shared = set.intersection(*kept)
    if len(shared) != 1:
        why = (
            f"several suites in common ({', '.join(sorted(shared))})"
            if shared
            else "none in common"
        )
        print(f"cpt: note: no probes shown: {why}; --suite names one", file=sys.stderr)
    return len(shared) == 1


def _table(found: Sequence[Model], reference: Model, given: argparse.Namespace) -> Table:
    measured = results(found, given)
    return compare_rows(
        measured.suite,
        measured.suite_hash,
        measured.rows,
        reference.label,
        MARGIN,
        noise=measured.noise(reference.label),
    )


def _tell(story: Story, given: argparse.Namespace, colour: bool, width: int) -> None:
    as_json = json.dumps(content(story), indent=1, allow_nan=False) + "\n"
    if given.output is not None:
        kinds = {".json": lambda: as_json, ".md": lambda: markdown(story)}
        atomic_write(given.output, kinds.get(given.output.suffix, lambda: html(story))())
    if given.json:
        print(as_json, end="")
    elif given.markdown:
        print(markdown(story), end="")
    else:
        print(terminal(story, width, colour), end="")
        if given.output is not None:
            print(f"written: {given.output}")
