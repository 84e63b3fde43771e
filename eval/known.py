"""Cells that an earlier result of the same model holds, for probes whose fingerprint is the same."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cpt.errors import ProbeError
from eval.matrix import read_row
from eval.suite import Suite


def known_cells(
    files: Iterable[Path], suite: Suite, like: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The suite's probes that were measured before: name -> cell.

    A fingerprint hashes all that changes a probe's numbers, whatever the suite around it. Group and margin
    are no part of it: they are the suite's own. Files that no row can be read from are passed over.

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
                    own = {"group": probe.group, "margin": probe.margin}
                    found[probe.name] = {**cell, **own}
    return {name: found[name] for name in suite.probes if name in found}


def _read(file: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        read_row("", "", file, result["suite_hash"])  # is it whole?
    except (OSError, ValueError, LookupError, TypeError, ProbeError):
        return {"version": None}
    return result
