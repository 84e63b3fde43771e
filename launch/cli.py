"""The command line: the verbs of `launch.parser`, each in a module that is imported when it is called."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cpt.errors import RecipeError, StoreError
from launch.console import Console, guarded
from launch.parser import parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, with overrides anywhere: argparse alone loses those that stand behind an option."""
    top = parser()
    given, more = top.parse_known_args(arguments)
    changes = [text for text in more if "=" in text and not text.startswith("-")]
    strange = [text for text in more if text not in changes]
    if strange or (changes and given.verb not in ("plan", "run", "slurm")):
        top.error(f"unrecognized arguments: {' '.join(strange or changes)}")
    if changes:
        given.changes = [*given.changes, *changes]
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `cpt`."""
    given = _parse(arguments)
    from launch.quiet import hush

    hush(given.verbose)
    verbs = {
        "plan": _plan,
        "run": _run,
        "slurm": _slurm,
        "probe": _probe,
        "compare": _compare,
        "report": _report,
        "ls": _ls,
        "diff": _diff,
        "reproduce": _reproduce,
        "adapters": _adapters,
        "verify": _verify,
        "gc": _gc,
        "export": _export,
        "schema": _schema,
        "methods": _methods,
    }
    return guarded(lambda: verbs[given.verb](given), given.verbose)


def _plan(given: argparse.Namespace) -> int:
    from cpt.machine_spec import declared
    from launch.installed import missing
    from launch.opening import open_chain, show

    chain = open_chain(given.recipe, given.changes, given.runs, given.launch, given.deterministic)
    lacking = missing(chain.plan, chain.is_finished)
    print(show(chain, declared(given.machine) if given.machine else None))
    for sentence in lacking:  # a plan may be made for another machine
        print(f"warning: {sentence}; until then cpt run refuses")
    return 0


def _run(given: argparse.Namespace) -> int:
    from cpt.estimate_text import shortfalls
    from launch.chain import run
    from launch.installed import missing, refuse_missing
    from launch.opening import open_chain

    chain = open_chain(given.recipe, given.changes, given.runs, given.launch, given.deterministic)
    refuse_missing(missing(chain.plan, chain.is_finished))
    for warning in (*chain.plan.warnings, *shortfalls(chain.needs())):
        print(f"cpt: warning: {warning}", file=sys.stderr)
    return run(
        chain,
        Console(given.verbose),
        until=given.until,
        restart=given.restart,
        verbose=given.verbose,
        colour=sys.stdout.isatty(),
        width=shutil.get_terminal_size().columns,
    )


def _slurm(given: argparse.Namespace) -> int:
    from launch.slurm.command import slurm

    return slurm(given)


def _probe(given: argparse.Namespace) -> int:
    from launch.naming import stage_folder
    from launch.probing import probe

    if given.against is not None:
        from launch.regression import check

        return check(given)
    if given.junit is not None or given.margin is not None or given.any_template:
        raise RecipeError(
            "--junit, --margin and --any-template say how a model compares; name --against MODEL too"
        )
    result = probe(given, stage_folder(given.model, given.runs))
    if given.json:
        plain = {
            name: {key: value for key, value in cell.items() if key != "items"}
            for name, cell in result["probes"].items()
        }
        print(json.dumps({**result, "probes": plain}, indent=1))
        return 0
    width = max(len(name) for name in result["probes"])
    for name, cell in result["probes"].items():
        score = f"{cell['value']:8.4f} +- {cell['stderr']:.4f}"
        print(f"{name:{width}}  {score}  {cell['metric']}, {cell['num_items']} items")
    return 0


def _compare(given: argparse.Namespace) -> int:
    from launch.comparing import compare

    return compare(given, sys.stdout.isatty(), shutil.get_terminal_size().columns)


def _report(given: argparse.Namespace) -> int:
    from cpt.store import Store
    from eval.report.terminal import terminal
    from eval.report.write import write_report
    from launch.naming import chain_folder
    from launch.sibling import sibling

    folder = chain_folder(given.chain, Store(given.runs).root)
    store = Store(folder.parent.parent)
    if given.against:
        against: Path | None = chain_folder(given.against, store.root)
    else:
        against = sibling(folder, lambda text: print(f"cpt: note: {text}", file=sys.stderr))
    with store.chain_lock(folder.name):
        story = write_report(folder, store.stages, against)
    print(terminal(story, given.stage, shutil.get_terminal_size().columns, sys.stdout.isatty()))
    print(f"report: {folder / 'report.html'}")
    return 0


def _ls(given: argparse.Namespace) -> int:
    from launch.listing import listing

    text, problems = listing(given.runs)
    print(text)
    if problems:
        raise StoreError("\n".join(problems))
    return 0


def _diff(given: argparse.Namespace) -> int:
    from dataclasses import asdict

    from cpt.manifest import differences, read
    from cpt.settings import did_you_mean
    from launch.naming import stage_folder

    folders = []
    for name in (given.one, given.other):
        folder = stage_folder(name, given.runs)
        if folder is None and Path(name).is_symlink() and not Path(name).exists():
            raise RecipeError(f"{name}: links to {os.readlink(name)}, which is gone; run it again")
        if folder is None:
            stages = given.runs / "stages"
            known = [path.parent.name for path in stages.glob("*/manifest.json")]
            hint = did_you_mean(name, known) if known else "; there are none yet"
            raise RecipeError(f"{stages}: no finished stage {name!r}{hint}")
        folders.append(folder)
    hidden = ("files", "seconds", "finished", "memory", "how")  # of the recipe the inputs tell
    one, other = (
        {k: v for k, v in asdict(read(folder)).items() if k not in hidden} for folder in folders
    )
    for path, left, right in differences(one, other):
        print(f"{path}\n  - {_brief(left)}\n  + {_brief(right)}")
    return 0


def _brief(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def _adapters(given: argparse.Namespace) -> int:
    from launch.adapters import adapters
    from launch.naming import chain_folder

    folder = None if Path(given.chain).is_file() else chain_folder(given.chain, given.runs)
    print(adapters(Path(given.chain), folder, given.runs, given.output))
    return 0


def _verify(given: argparse.Namespace) -> int:
    from launch.verify import verify

    return verify(given.names, given.runs, lambda line: print(line, flush=True))


def _gc(given: argparse.Namespace) -> int:
    from launch.gc import gc

    return gc(given)


def _export(given: argparse.Namespace) -> int:
    from launch.export import export

    return export(given)


def _reproduce(given: argparse.Namespace) -> int:
    from launch.made import find
    from launch.reproduce import reproduce, told

    made = find(given.stage, given.runs)
    if given.run is not None:
        return reproduce(made, given.run, Console(given.verbose))
    print(told(made, given.runs))
    return 0


def _schema(given: argparse.Namespace) -> int:
    from launch.schema import chain_schema, stage_schema, suite_schema

    schema = stage_schema if given.stage else suite_schema if given.suite else chain_schema
    print(json.dumps(schema(), indent=1))
    return 0


def _methods(given: argparse.Namespace) -> int:
    from launch.methods import method, methods
    from launch.methods_text import card_text, table_text

    found = [method(given.name)] if given.name else methods()
    if given.json:
        told = [each.content() for each in found]
        print(json.dumps(told[0] if given.name else told, indent=1))
    else:
        print(card_text(found[0]) if given.name else table_text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
