"""The report as one JSON tree, for programs: every number of the page, and nothing that is only prose."""

import math
from dataclasses import asdict
from typing import Any

from eval.change import Change
from eval.report import kl, logged
from eval.report.facts import packages
from eval.report.flips import Flips
from eval.report.story import Stage, Story
from eval.report.words import sentences
from eval.template import note

VERSION = 2
#: Flips that are told with their answers, of either kind.
NUM_EXAMPLES = 4


def content(story: Story) -> dict[str, Any]:
    """Plain values; keys are those of the classes that they come from."""
    comparison = story.comparison
    tree = {
        "version": VERSION,
        "name": story.name,
        "command": story.command,
        "seed": story.seed,
        "baseline": story.baseline,
        "gate": {"margin": story.margin, "on_regression": story.on_regression},
        "summary": sentences(story),
        "probes": [asdict(probe) for probe in story.probes],
        "matrix": story.matrix.to_json(),
        "template_note": note(story.matrix.rows),
        "noise": {name: asdict(floor) for name, floor in story.noise.items()},
        "continual": [asdict(one) for one in story.continual],
        "groups": [asdict(one) for one in story.groups],
        "stages": [_stage(stage) for stage in story.stages],
        "comparison": comparison
        and {
            "chain": comparison.other.name,
            "stage": comparison.row.stage,
            "changes": [_change(change) for change in comparison.changes],
        },
        "flips": _flips(story.flips),
        "kl_against_forgetting": {kind: _forgetting(story, kind) for kind in kl.KINDS},
        "packages": packages(story),
        "recipe": story.recipe,
    }
    return {key: _finite(value) for key, value in tree.items()}


def _finite(value: Any) -> Any:
    """Without NaN and infinities, for which JSON has no word: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def _flips(found: Flips) -> dict[str, Any]:
    return {
        "lost": len(found.lost),
        "won": len(found.won),
        "examples": {
            "lost": [asdict(flip) for flip in found.lost[:NUM_EXAMPLES]],
            "won": [asdict(flip) for flip in found.won[:NUM_EXAMPLES]],
        },
    }


def _forgetting(story: Story, kind: str) -> dict[str, Any]:
    found = kl.paths(story, kind)
    fitted = kl.fit(found)
    return {"stages": [asdict(one) for one in found], "fit": fitted and asdict(fitted)}


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "kind": stage.kind,
        "id": stage.id,
        "status": stage.status,
        "parents": list(stage.parents),
        "reference": stage.reference,
        "hooks": list(stage.hooks),
        "gate": stage.verdict and stage.verdict.action,
        "messages": list(stage.verdict.messages) if stage.verdict else [],
        "from_base": [_change(change) for change in stage.from_base],
        "from_predecessor": [_change(change) for change in stage.from_predecessor],
        "shifted": [_change(change) for change in stage.shifted],
        "looks": {
            "suite": stage.looks.suite,
            "series": {
                one.name: list(zip(one.steps, one.values, strict=True))
                for one in (*stage.looks.signals, *stage.looks.probes)
            },
            "gaps": [asdict(gap) for gap in stage.looks.gaps],
            "lowest": [asdict(one) for one in stage.looks.lowest],
            "unreadable": list(stage.looks.unreadable),
        },
        "logged": [asdict(term) for term in logged.terms(stage)],
        "flips": _flips(stage.flips),
        "cost": {key: value for key, value in asdict(stage.cost).items() if key != "stage"},
        "notes": [str(note) for note in stage.manifest.get("notes") or []],
    }


def _change(change: Change) -> dict[str, Any]:
    return asdict(change)
