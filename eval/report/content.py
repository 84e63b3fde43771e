"""The report as one JSON tree, for programs: every number of the page, and nothing that is only prose."""

from dataclasses import asdict
from typing import Any

from eval.compare import Change
from eval.report.story import Stage, Story
from eval.report.words import sentences

VERSION = 2


def content(story: Story) -> dict[str, Any]:
    """Plain values; keys are those of the classes that they come from."""
    comparison = story.comparison
    return {
        "version": VERSION,
        "name": story.name,
        "command": story.command,
        "seed": story.seed,
        "baseline": story.baseline,
        "gate": {"margin": story.margin, "on_regression": story.on_regression},
        "summary": sentences(story),
        "probes": [asdict(probe) for probe in story.probes],
        "matrix": story.matrix.to_json(),
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
        "recipe": story.recipe,
    }


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
        "cost": {key: value for key, value in asdict(stage.cost).items() if key != "stage"},
        "notes": [str(note) for note in stage.manifest.get("notes") or []],
    }


def _change(change: Change) -> dict[str, Any]:
    return asdict(change)
