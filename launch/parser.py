"""The verbs of `cpt` and their options, with examples."""

import argparse
import os
from pathlib import Path

from cpt import __version__
from launch.care_options import EXPORT, GC, VERIFY, add_export, add_gc, add_verify
from launch.options import COMPARE, MARGIN, add_any_template, add_compare, add_loading, amount

EXAMPLES = {
    "plan": """examples:
  cpt plan recipes/quickstart/chain.yaml
  cpt plan recipes/quickstart/chain.yaml stages.sft.train.learning_rate=3e-6
  cpt plan recipes/math-8b/chain.yaml --launch zero2 --machine h100-8
what the recipe names and this machine has not installed (an optimizer, a tracker) is a warning here, since a
plan may be for another machine; cpt run refuses it before any weights load""",
    "run": """examples:
  cpt run recipes/quickstart/chain.yaml
  cpt run recipes/quickstart/chain.yaml baseline=naive        the same chain without its hooks
  cpt run recipes/quickstart/chain.yaml baseline=joint        without hooks, all labelled text at once
  cpt run recipes/quickstart/chain.yaml --until sft
the same command continues an interrupted chain; exit codes: 0 done, 1 failed, 2 bad input,
3 stopped by the gate, 4 pre-empted (run it again)""",
    "slurm": """examples:
  cpt slurm recipes/math-8b/chain.yaml --cluster configs/slurm/example.yaml
  cpt slurm recipes/math-8b/chain.yaml --cluster configs/slurm/example.yaml --submit
  cpt slurm recipes/math-8b/chain.yaml --cluster configs/slurm/example.yaml --per-stage --submit
writes scripts of jobs on one node into slurm/ of the runs folder; a job that is pre-empted, or whose time
ends, saves its step, goes back into the queue and continues; one that fails does not""",
    "probe": """examples:
  cpt probe runs/chains/quickstart/2-sft --suite configs/probes/quickstart.yaml
  cpt probe ./my-checkpoint --suite configs/probes/quickstart.yaml --output result.json
  cpt probe HuggingFaceTB/SmolLM2-135M --revision main --suite configs/probes/quickstart.yaml
  cpt probe ./my-checkpoint --against base.json --suite configs/probes/quickstart.yaml --junit probes.xml
what was measured once is not measured again: a stage's result lies in its folder, that of any other model in
cache/probes of the runs folder; --against takes the same names, and a file that --output wrote
exit codes: 0 done, and with --against no probe regressed; 1 failed; 2 bad input; 3 a probe regressed, that is
worse than its margin allows, tested item by item and corrected after Holm; undecided is not regressed""",
    "compare": COMPARE,
    "report": """examples:
  cpt report quickstart
  cpt report quickstart --against another-chain
  cpt report quickstart --stage sft""",
    "ls": """examples:
  cpt ls
  cpt ls --runs /data/runs""",
    "diff": """examples:
  cpt diff sft-91be04e7 sft-d07a2e10
  cpt diff runs/chains/a/2-sft runs/chains/b/2-sft""",
    "reproduce": """examples:
  cpt reproduce sft-91be04e7
  cpt reproduce runs/chains/smoke/2-sft --run runs-again
prints the commands that make a stage again, and warns of packages, code, machine and environment that are not
what they were; --run makes it in a store of its own, on links to its verified parents, and compares
exit codes: 0 done, and with --run equal to the bit; 1 not equal, or failed; 2 bad input""",
    "adapters": """examples:
  cpt adapters recipes/smoke/chain.yaml
  cpt adapters tasks --output served
one folder of PEFT adapters, named by stage, of the stages that keep theirs apart (lora: {after: keep} or
{after: continue}); in Python, cpt.adapters.open_registry(folder) loads their base and routes by name""",
    "verify": VERIFY,
    "gc": GC,
    "export": EXPORT,
    "schema": """examples:
  cpt schema > recipe.schema.json
  cpt schema --stage > stage.schema.json
  cpt schema --suite > suite.schema.json""",
    "methods": """examples:
  cpt methods
  cpt methods kl
  cpt methods --json""",
}


def parser() -> argparse.ArgumentParser:
    """The argument parser of `cpt`."""
    top = argparse.ArgumentParser(
        prog="cpt",
        description="Train a language model in stages without losing what it could do.",
        epilog="a chain starts with: cpt run recipes/quickstart/chain.yaml",
    )
    top.add_argument("--version", action="version", version=f"cpt {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help_text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument(
            "-v", "--verbose", action="store_true", help="show what the libraries say"
        )
        if name not in ("diff", "schema", "methods"):
            added.add_argument(
                "--runs",
                type=Path,
                default=Path(os.environ.get("CPT_RUNS", "runs")),
                metavar="DIR",
                help="where stages and chains live (default: runs, or $CPT_RUNS)",
            )
        return added

    for name, text in (
        ("plan", "check a recipe and print what would run"),
        ("run", "run a chain, or continue it"),
        ("slurm", "write the job of a chain for SLURM, or submit it"),
    ):
        chain = verb(name, text)
        chain.add_argument("recipe", type=Path, help="a chain.yaml")
        chain.add_argument("changes", nargs="*", metavar="path=value", help="overrides")
        chain.add_argument("--launch", help="backend instead of the recipe's: single, ddp, ...")
        chain.add_argument(
            "--deterministic",
            action="store_true",
            help="only kernels that give the same bits again",
        )
        if name == "plan":
            chain.add_argument(
                "--machine",
                metavar="NAME",
                help="estimate for this one of configs/machines, or a YAML file (default: here)",
            )
        if name == "run":
            chain.add_argument("--until", metavar="STAGE", help="stop after this stage")
            chain.add_argument(
                "--restart", action="store_true", help="begin the first unfinished stage anew"
            )
        if name == "slurm":
            chain.add_argument(
                "--cluster", type=Path, metavar="FILE", help="what jobs ask for; see configs/slurm"
            )
            chain.add_argument(
                "--time", metavar="TIME", help="of one job, instead of the cluster's"
            )
            chain.add_argument("--per-stage", action="store_true", help="a job for each stage")
            chain.add_argument("--submit", action="store_true", help="call sbatch")
    probe = verb("probe", "measure a suite on any checkpoint")
    probe.add_argument(
        "model", help="a stage (folder, id or link), a checkpoint folder, or a hub id"
    )
    probe.add_argument(
        "--suite",
        type=Path,
        required=True,
        metavar="FILE",
        help="a suite in configs/probes; with --against also the name of one whose results are there",
    )
    probe.add_argument("--revision", metavar="COMMIT", help="commit, branch or tag of a hub model")
    add_loading(probe)
    probe.add_argument("--output", type=Path, help="write the result here too")
    probe.add_argument(
        "--against", metavar="MODEL", help="compare with this one; exit code 3 if a probe regressed"
    )
    probe.add_argument("--margin", type=amount, metavar="M", help=MARGIN)
    add_any_template(probe)
    probe.add_argument(
        "--junit", type=Path, metavar="FILE", help="write the comparison as JUnit XML, for CI"
    )
    probe.add_argument("--json", action="store_true", help="for tools")
    add_compare(verb("compare", "put models or chains side by side: probes, answers, a judge"))
    report = verb("report", "write a chain's report again and show it")
    report.add_argument("chain", help="a chain's name, or its folder")
    report.add_argument("--stage", help="show this stage (default: the last)")
    report.add_argument(
        "--against",
        metavar="CHAIN",
        help="compare with this chain (default: its baseline, or what it is the baseline of)",
    )
    verb("ls", "list chains and stages")
    diff = verb("diff", "show in what two stages differ")
    diff.add_argument("one")
    diff.add_argument("other")
    diff.add_argument(
        "--runs", type=Path, default=Path(os.environ.get("CPT_RUNS", "runs")), metavar="DIR"
    )
    again = verb("reproduce", "print the commands that make a stage again, or run them and compare")
    again.add_argument("stage", help="a stage: its id, its folder, or a link in a chain")
    again.add_argument("--run", type=Path, metavar="DIR", help="make it in this new store")
    adapters = verb("adapters", "collect the adapters that a chain keeps apart, to serve by name")
    adapters.add_argument("chain", help="a chain.yaml, a chain's name, or its folder")
    adapters.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: adapters in the chain's folder"
    )
    add_verify(verb("verify", "read every byte of stages, and name what is damaged"))
    add_gc(verb("gc", "remove what nobody needs any more"))
    add_export(verb("export", "write a stage as a plain Hugging Face folder, or upload it"))
    schema = verb("schema", "print the JSON schema of a recipe, for editors")
    which = schema.add_mutually_exclusive_group()
    which.add_argument("--stage", action="store_true", help="of one stage file instead")
    which.add_argument("--suite", action="store_true", help="of a probe suite instead")
    listed = verb("methods", "list hooks and stage kinds, or print the card of one")
    listed.add_argument("name", nargs="?", help="a hook or a stage kind")
    listed.add_argument("--json", action="store_true", help="for tools")
    return top
