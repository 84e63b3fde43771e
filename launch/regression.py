"""`cpt probe MODEL --against BASE`: did a checkpoint lose anything? For someone's CI."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from cpt.actions import MARGIN
from cpt.errors import GateStopped, RecipeError
from cpt.ids import atomic_write
from eval.beside.sentences import sentence
from eval.beside.table import Table, compare_rows
from eval.beside.texts import change_numbers
from eval.junit import junit
from eval.matrix import Row
from eval.report.words import Word, by_weight, word
from launch.naming import Model, models
from launch.results import Results, results

_MARKS: dict[Word, str] = {"regressed": "v", "improved": "^", "undecided": "?", "held": "="}


def check(given: argparse.Namespace) -> int:
    """Compare two models, print the gate's verdict, and say it by the exit code.

    Returns: 0 where no probe regressed, else 3.

    Raises:
        RecipeError: bad input; see `results`.
        ProbeError: a model cannot be measured, or the two were measured differently.
    """
    if given.junit is not None:  # of an earlier run: CI keeps the file even where this one fails
        given.junit.unlink(missing_ok=True)
    own, base = _pair(given)
    given.suite = str(given.suite)
    found = results([base, own], given)
    table = compare_rows(
        found.suite,
        found.suite_hash,
        found.rows,
        base.label,
        MARGIN,
        noise=found.noise(base.label),
    )
    regressed = [c.probe for c in table.columns[1].changes.values() if c.verdict == "regressed"]
    if given.output is not None:
        atomic_write(given.output, found.files[1].read_text(encoding="utf-8") + "\n")
    if given.junit is not None:
        atomic_write(given.junit, junit(table, found.seconds(1), _command(given)))
    if given.json:
        print(json.dumps(_content(table, found, regressed), indent=1, allow_nan=False))
    else:
        print("\n".join(_lines(table, regressed)))
    return GateStopped.exit_code if regressed else 0


def _pair(given: argparse.Namespace) -> tuple[Model, Model]:
    """The model and what it is compared with."""
    both = [f"{given.model}@{given.revision}" if given.revision else given.model, given.against]
    if given.revision and Path(given.model).is_dir():
        raise RecipeError(
            f"--revision {given.revision}: {given.model} is a folder; hub models have one"
        )
    found, base = models(both[:1], given.runs, against=both[1])
    if len(found) < 2:
        raise RecipeError(f"{given.model}: is compared with itself; --against names another model")
    return found[1], base


def _command(given: argparse.Namespace) -> str:
    command = ["cpt", "probe", given.model, "--against", given.against, "--suite", given.suite]
    for name in ("revision", "margin", "dtype", "backend"):
        if (value := getattr(given, name)) is not None:
            command += [f"--{name}", f"{value:g}" if isinstance(value, float) else value]
    return shlex.join([*command, *(["--trust-remote-code"] if given.trust_remote_code else [])])


def _lines(table: Table, regressed: list[str]) -> list[str]:
    """Scores of both, then a sentence a probe, regressions first."""
    base, column = table.reference, table.columns[1]
    width = max(len(name) for name in column.row.scores)
    lines = [f"{'':{width}}  {'before':>18}  {'after':>18}"]
    for name, score in column.row.scores.items():
        told = [f"{s.value:8.4f} +- {s.stderr:.4f}" for s in (base.scores[name], score)]
        metric = f"{score.metric}, {len(score.items)} items"
        lines.append(f"{name:{width}}  {told[0]:>18}  {told[1]:>18}  {metric}")
    lines += ["", f"{column.label} against {base.stage}, suite {table.suite}-{table.suite_hash}:"]
    for change in by_weight(column.changes.values()):
        text = sentence(change, column.row.scores[change.probe], table.num_tests)
        lines.append(f"  {_MARKS[word(change)]} {text}")
    return [*lines, "", _conclusion(column.row, regressed, table)]


def _conclusion(row: Row, regressed: list[str], table: Table) -> str:
    judged = table.columns[1].changes
    undecided = sum(change.verdict == "undecided" for change in judged.values())
    rest = f"; {undecided} undecided, which is no regression shown" if undecided else ""
    if drifts := [name for name in row.scores if name not in judged]:
        rest += f"; not judged, as neither direction is better: {', '.join(drifts)}"
    if regressed:
        code = GateStopped.exit_code
        return f"regressed: {', '.join(regressed)} ({len(judged)} probes; exit code {code}){rest}"
    return f"no regression in {len(judged)} probes{rest}"


def _content(table: Table, found: Results, regressed: list[str]) -> dict[str, Any]:
    column = table.columns[1]
    probes = [
        {
            "probe": probe,
            "metric": column.row.scores[probe].metric,
            "before": table.reference.scores[probe].value,
            "after": column.row.scores[probe].value,
            **change_numbers(change),
            "sentence": sentence(change, column.row.scores[probe], table.num_tests),
        }
        for probe, change in column.changes.items()
    ]
    return {
        "version": 1,
        "verdict": "regressed" if regressed else "passed",
        "regressed": regressed,
        "model": column.label,
        "against": table.reference.stage,
        "suite": {"name": table.suite, "hash": table.suite_hash},
        "level": table.level,
        "results": [str(file) for file in found.files],
        "probes": probes,
    }
