"""Probes that choose: what of them enters a stage's id, and how a stage measures them while it is made.

A probe that chooses among models must not be one that the report scores them with: the best of several by
chance would look better than it is. So it has items of its own: another task or data, or the dev items of a
probe of which the report scores the test items (`dev` in a suite). Both are compared, here by what they
measure, and item by item once they have run.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt.errors import CptError, ProbeError, RecipeError
from cpt.merging.spec import Method
from cpt.settings import did_you_mean
from eval.suite import Probe, Suite, load_suite
from launch.console import Console
from launch.in_memory import cache_of, load
from stages.base import Job


def steering(merge: Method, where: str, suite: Suite | None = None) -> str | None:
    """Hash of the probe that a merge chooses by; None where it does not choose.

    Args:
        merge: the stage's settings.
        where: its file.
        suite: what the chain's report scores.

    Raises:
        RecipeError: there is no such suite or probe, or the report scores it.
    """
    if merge.chooses is None:
        return None
    probe = _probe(*merge.chooses, where)[1]
    for other in suite.probes.values() if suite else ():
        if (probe.task, probe.data) == (other.task, other.data) and not _on_dev(probe, other):
            raise RecipeError(
                f"{where}: merge.probe: {probe.name} has the items of {other.name}, which the report scores; "
                f"what chooses models must not measure them too, so name a probe on other data, or give both "
                f"suites the same `dev`"
            )
    return probe.fingerprint


def scorer(job: Job, console: Console) -> Callable[[Path], float] | None:
    """What measures a checkpoint with the probe that a merge chooses by; None where it does not choose."""
    if job.spec.merge is None or job.spec.merge.chooses is None:
        return None
    whole, probe = _probe(*job.spec.merge.chooses, job.spec.file)
    suite = replace(whole, probes={probe.name: probe})
    scored = _scored_items([job.parent, *job.roles.values()])

    def score(folder: Path) -> float:
        from eval.probe import probe_model

        model, tokenizer = load(str(folder), job.load)
        model.to(_device())
        cell = probe_model(
            model,
            tokenizer,
            suite,
            cache=cache_of(job),
            stage_id=folder.name,
            progress=console.progress(f"{job.name}: "),
            verbose=job.verbose,
        )["probes"][probe.name]
        where = f"{job.spec.file}: merge.probe: {probe.name}"
        items = [item for item in cell["items"] if item.get("split") != "test"]
        if not items:
            raise ProbeError(f"{where}: none of its items is in the dev split; raise its limit")
        _check_items(items, scored, where)
        total = math.fsum(item["weight"] for item in items)
        value = math.fsum(item["weight"] * item["value"] for item in items) / total
        return value if cell["higher_is_better"] else -value

    return score


def _on_dev(probe: Probe, reported: Probe) -> bool:
    """Whether a probe chooses by dev items of another, whose test items are reported."""
    return 0 < probe.dev <= reported.dev and probe.cluster == reported.cluster


def _probe(file: str, name: str, where: str) -> tuple[Suite, Probe]:
    try:
        suite = load_suite(Path(file))
    except CptError as error:
        raise RecipeError(
            f"{where}: merge.suite: {error}"
        ) from None  # bad input, whatever its own code
    if name not in suite.probes:
        near = did_you_mean(name, suite.probes)
        raise RecipeError(f"{where}: merge.probe: {file} has no {name!r}{near}")
    if suite.probes[name].direction == "none":
        raise RecipeError(
            f"{where}: merge.probe: {name} of {file} has `direction: none`, so nothing is best by it; name "
            f"a probe of which higher or lower is better"
        )
    return suite, suite.probes[name]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _scored_items(folders: list[str]) -> dict[str, str]:
    """Item -> probe, of all that was measured on the merged stages and is no dev item."""
    found: dict[str, str] = {}
    for folder in folders:
        for file in sorted(Path(folder).glob("probes/*.json")):
            for name, cell in json.loads(file.read_text(encoding="utf-8"))["probes"].items():
                reported = [item for item in cell["items"] if item.get("split") != "dev"]
                found |= {_document(item["id"]): name for item in reported}
    return found


def _check_items(items: list[dict[str, Any]], scored: dict[str, str], where: str) -> None:
    """Refuse items that are among those that the report scores.

    Raises:
        ProbeError: names the report's probe.
    """
    both = {_document(item["id"]) for item in items} & scored.keys()
    if both:
        raise ProbeError(
            f"{where}: {len(both)} of its {len(items)} items are also in {scored[min(both)]}, "
            f"which the report scores; what chooses models must not measure them too, so name a probe on "
            f"other items"
        )


def _document(item: str) -> str:
    """The document's hash in an item's id, which a group's task may precede and a repetition follow."""
    return item.rpartition("/")[2].partition("-")[0]
