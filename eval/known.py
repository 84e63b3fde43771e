"""The result of a suite, and cells that earlier results of the same model hold already."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cpt.errors import ProbeError
from eval.head import head_of
from eval.matrix import read_row
from eval.suite import Suite

VERSION = 1
PACKAGES = ("lm_eval", "transformers", "torch", "datasets")


def result(suite: Suite, stage_id: str, seconds: float, cells: dict[str, Any]) -> dict[str, Any]:
    """What a result file holds."""
    return {
        "version": VERSION,
        "suite": suite.name,
        "suite_hash": suite.hash,
        "stage": stage_id,
        "seconds": round(seconds, 2),
        "packages": packages_of(suite),
        "probes": cells,
    }


def known_results(files: Iterable[Path], suite: Suite) -> dict[str, dict[str, Any]]:
    """Cells of earlier results of the same model, made with the same packages; see `known_cells`."""
    return known_cells(files, suite, {"version": VERSION, "packages": packages_of(suite)})


def is_current(file: Path, suite: Suite) -> bool:
    """Whether a suite's result is there and would be made with the same packages now."""
    try:
        told = head_of(file)
    except (OSError, ValueError):
        return False
    return (told.get("version"), told.get("packages")) == (VERSION, packages_of(suite))


def packages_of(suite: Suite) -> dict[str, str]:
    """The versions of what a suite's numbers depend on here."""
    names = (*PACKAGES, "vllm") if suite.backend == "vllm" else PACKAGES
    return {name: _version(name) for name in names}


def is_complete(known: Mapping[str, Any] | None, suite: Suite) -> bool:
    """Whether nothing is left to measure."""
    return suite.probes.keys() <= (known or {}).keys()


def known_cells(
    files: Iterable[Path], suite: Suite, like: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The suite's probes that were measured before: name -> cell.

    A fingerprint hashes all that changes a probe's numbers, whatever the suite around it. Group, margin and
    other labels are no part of it: they are the suite's own. Files that no row can be read from are passed
    over.

    Args:
        files: earlier results of the model that is to be measured, of any suites.
        like: what must be equal in such a result: a row that mixes versions of a package compares badly.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(files):
        result = _read(file)
        if any(result.get(key) != value for key, value in like.items()):
            continue
        for cell in result["probes"].values():
            for probe in suite.probes.values():
                if cell["fingerprint"] == probe.fingerprint:
                    found[probe.name] = {**cell, **probe.labels}
    return {name: found[name] for name in suite.probes if name in found}


def _read(file: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        read_row("", "", file, result["suite_hash"])  # is it whole?
    except (OSError, ValueError, LookupError, TypeError, ProbeError):
        return {"version": None}
    return result


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
