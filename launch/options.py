"""Options that verbs share, and those of `cpt compare`."""

import argparse
from pathlib import Path
from typing import Any

COMPARE = """examples:
  cpt compare quickstart quickstart-naive
  cpt compare quickstart --stages                       every stage of a chain beside its base
  cpt compare sft-91be04e7 HuggingFaceTB/SmolLM2-135M@main --suite configs/probes/quickstart.yaml
  cpt compare base.json new.json --markdown >> "$GITHUB_STEP_SUMMARY"
  cpt compare quickstart quickstart-naive --prompts questions.jsonl --output beside.html
  cpt compare a b --prompts questions.jsonl --judge ./judge-model
  cpt compare a b --prompts questions.jsonl --judge https://api.openai.com/v1 --judge-model NAME
a MODEL is a stage (id, folder or link), a chain (its last stage), a checkpoint folder, a hub id with or
without @REVISION, or a file that cpt probe --output wrote; without --suite stored results are shown, and
no model is loaded
exit codes: 0 compared, whatever came out; 1 failed; 2 bad input (cpt probe --against exits 3 on a regression)
prompts and answers leave this machine only for the address that --judge names, and so does OPENAI_API_KEY"""

MARGIN = (
    "fall that is tolerated, in each probe's unit (default: the suite's margin of the probe, else 0.02); "
    "not of probes of which neither direction is better"
)


#: Options that mean nothing without prompts, and their defaults.
ANSWERING: dict[str, Any] = {
    "num": None,
    "max_new_tokens": 256,
    "temperature": 0.0,
    "seed": 0,
    "batch_size": 8,
}


def add_loading(verb: argparse.ArgumentParser) -> None:
    """How models are loaded, where they are."""
    verb.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="number type of the weights (default: as the stage was made, or as the model was saved)",
    )
    verb.add_argument(
        "--backend",
        choices=("hf", "vllm"),
        help="what runs the model (default: as the suite says); vllm is not tested on real hardware",
    )
    verb.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that the model brings"
    )


def add_any_template(verb: argparse.ArgumentParser) -> None:
    """Whether models may be compared that were asked in chat templates of their own."""
    verb.add_argument(
        "--any-template",
        action="store_true",
        help="compare models that have different chat templates, too: a change is then of both",
    )


def add_compare(compare: argparse.ArgumentParser) -> None:
    """Options of `cpt compare`."""
    compare.add_argument("models", nargs="+", metavar="MODEL", help="see below")
    compare.add_argument(
        "--suite",
        metavar="SUITE",
        help="a suite's file, and what is missing is measured, or the name of one whose results are "
        "there (default: the one that all models have)",
    )
    compare.add_argument(
        "--against", metavar="MODEL", help="what the others are compared with (default: the first)"
    )
    compare.add_argument("--stages", action="store_true", help="all stages of chains")
    compare.add_argument("--margin", type=amount, metavar="M", help=MARGIN)
    add_any_template(compare)
    add_loading(compare)
    shape = compare.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON, for tools")
    shape.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.add_argument(
        "--output", type=Path, metavar="FILE", help="write FILE.html, FILE.md or FILE.json too"
    )
    answers = compare.add_argument_group("answers to the same prompts")
    answers.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON Lines, {"prompt": ...} or {"messages": [...]} a line',
    )
    answers.add_argument("--num", type=count, metavar="N", help="the first N (default: all)")
    answers.add_argument(
        "--max-new-tokens",
        type=count,
        default=ANSWERING["max_new_tokens"],
        metavar="K",
        help="default: 256",
    )
    how = answers.add_mutually_exclusive_group()
    how.add_argument(
        "--greedy",
        dest="temperature",
        action="store_const",
        const=0.0,
        default=0.0,
        help="the likeliest token (the default)",
    )
    how.add_argument("--temperature", type=amount, metavar="T", default=0.0, help="sample at T")
    answers.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    answers.add_argument(
        "--batch-size",
        type=count,
        default=ANSWERING["batch_size"],
        metavar="B",
        help="prompts at a time (default: 8)",
    )
    judge = compare.add_argument_group("a judge of the answers")
    judge.add_argument(
        "--judge",
        metavar="MODEL|URL",
        help="a model that says which answer is better, in both orders; or the base address of an "
        "OpenAI-compatible endpoint, to which prompts and answers are then sent",
    )
    judge.add_argument("--judge-model", metavar="NAME", help="the model behind the address")


def count(text: str) -> int:
    """A number of things, at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def amount(text: str) -> float:
    """A number of at least 0."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number of at least 0")
    return number
