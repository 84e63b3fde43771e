"""Probe results of several models over one suite: those that are there, and those that are measured now."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt.actions import MARGIN
from cpt.errors import ProbeError, RecipeError
from eval.gate import margins_of, with_margins
from eval.matrix import Row, read_row
from eval.noise import Noise, read_noise
from eval.split import only
from eval.template import any_template, note
from launch.naming import Model


@dataclass(frozen=True)
class Results:
    """One row a model, in their order, named by their labels; `files` hold them."""

    suite: str
    suite_hash: str
    rows: tuple[Row, ...]
    files: tuple[Path, ...]

    def seconds(self, index: int) -> dict[str, float]:
        """What each probe of a model took."""
        cells = _read(self.files[index])["probes"]
        return {name: float(cell.get("seconds") or 0.0) for name, cell in cells.items()}

    def noise(self, name: str) -> dict[str, Noise]:
        """How far two measurements of a model lie apart, where it was measured twice."""
        index = [row.stage for row in self.rows].index(name)
        return read_noise(self.files[index], self.suite_hash)


def results(models: Sequence[Model], given: argparse.Namespace) -> Results:
    """A result of every model, over the suite that is named or the one that all have.

    Margins are those of the suite's file, where it is named, else those that were kept with the results;
    `given.margin` goes before both. A probe of which neither direction is better is judged only where the
    suite gives it a margin. Rows are of the items that are kept for reporting: a gate's repair may have
    chosen a model by the others.

    Args:
        given: of the command line: suite, margin, dtype, trust_remote_code, runs and verbose.

    Raises:
        RecipeError: no such suite, or none that all have, or a result of another suite.
        ProbeError: a result is damaged or lacks a probe, or a model cannot be measured.
    """
    margins: dict[str, float] = {}
    if given.suite is not None and _is_file(given.suite):
        from launch.probing import read_suite, result_file

        suite = read_suite(Path(given.suite), given.backend)
        name, suite_hash = suite.name, suite.hash
        margins = margins_of(suite.probes.values(), MARGIN)
        kept = [stored(model, given) if model.file else {} for model in models]
        for model, found in zip(models, kept, strict=True):
            if model.file and f"{name}-{suite_hash}" not in found:
                raise RecipeError(
                    f"{model.file}: was measured with suite {_listed(found)}, not with {name}-{suite_hash} "
                    f"of {given.suite}; measure the model again with cpt probe"
                )
        files = [
            model.file or result_file(of(given, model), model.stage, suite) for model in models
        ]
    elif given.backend is not None:
        raise RecipeError(
            f"--backend {given.backend}: measures a suite; name its file with --suite"
        )
    else:
        kept = [stored(model, given) for model in models]
        key = _common(models, kept, given.suite)
        name, _, suite_hash = key.rpartition("-")
        files = [found[key] for found in kept]
    rows = [
        read_row(model.label, model.stage.name if model.stage else model.label, file, suite_hash)
        for model, file in zip(models, files, strict=True)
    ]
    _check_complete(rows, name)
    if given.margin is not None:
        margins |= {name: given.margin for name, s in rows[0].scores.items() if not s.is_drift}
    told = tuple(only(with_margins(row, margins), "test") for row in rows)
    if getattr(given, "any_template", False):
        told = any_template(told)
        if told_apart := note(told):
            print(f"cpt: note: {told_apart}", file=sys.stderr)
    return Results(name, suite_hash, told, tuple(files))


def of(given: argparse.Namespace, model: Model) -> argparse.Namespace:
    """The command line as if it named this model alone."""
    own = {"model": model.name, "revision": model.revision, "output": None}
    return argparse.Namespace(**{**vars(given), **own})


def stored(model: Model, given: argparse.Namespace) -> dict[str, Path]:
    """Results of a model that are there: `<suite>-<hash>` -> file.

    Raises:
        RecipeError: a file that is named in place of a model is no probe result.
    """
    if model.file is None:
        from launch.probing import stored_results

        return stored_results(of(given, model), model.stage)
    try:
        result = _read(model.file)
        return {f"{result['suite']}-{result['suite_hash']}": model.file}
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{model.file}: is no probe result ({type(error).__name__}: {error}); "
            f"cpt probe MODEL --suite FILE --output {model.file.name} writes one"
        ) from None


def _common(models: Sequence[Model], kept: Sequence[Mapping[str, Path]], wanted: str | None) -> str:
    """The one suite that all models were measured with, of that name if there is one."""
    shared = [key for key in kept[0] if all(key in found for found in kept)]
    fitting = [key for key in shared if wanted in (None, key, key.rpartition("-")[0])]
    if len(fitting) == 1:
        return fitting[0]
    there = "; ".join(
        f"{model.label} has {_listed(found)}" for model, found in zip(models, kept, strict=True)
    )
    if fitting:
        raise RecipeError(f"{_listed(fitting)}: all have these; --suite NAME says which")
    problem = f"not all have results of suite {wanted}" if wanted else "no suite in common"
    raise RecipeError(
        f"{problem}: {there}; --suite FILE, such as configs/probes/general.yaml, measures what is "
        f"missing (numbers of a suite that changed do not compare: its hash differs)"
    )


def _is_file(suite: str) -> bool:
    """Whether a suite is named by its file, be it there or not."""
    return Path(suite).is_file() or suite.endswith((".yaml", ".yml")) or "/" in suite


def _listed(keys: Sequence[str] | Mapping[str, Path]) -> str:
    return ", ".join(keys) or "none"


def _read(file: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return tree


def _check_complete(rows: Sequence[Row], suite: str) -> None:
    """A probe that is missing would pass without a word."""
    every = dict.fromkeys(probe for row in rows for probe in row.scores)
    for row in rows:
        if missing := [probe for probe in every if probe not in row.scores]:
            raise ProbeError(
                f"{row.stage} has no score for {', '.join(missing)}, which others have; probe it "
                f"with suite {suite} again"
            )
