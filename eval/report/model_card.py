"""A section for the card of the chain's last model: what it was made of, and what that did to it."""

from typing import Any

import yaml

from eval.report.facts import data_lines, hook_lines
from eval.report.markdown import code, escape, table
from eval.report.story import Stage, Story
from eval.report.text import clean
from eval.report.words import difference, interval, sentences, unit, value, word


def model_card(story: Story) -> str:
    """Front matter as the hub reads it, and a section; empty where nothing was trained and probed yet."""
    last = story.last_probed
    if last is None or last.row is None or not last.from_base:
        return ""
    suite = f"{story.suite}-{story.suite_hash}"
    parts = [
        "---\n" + yaml.safe_dump(_front(story, last), sort_keys=False, allow_unicode=True) + "---",
        "## Continual post-training",
        " ".join(escape(sentence) for sentence in sentences(story)),
        _stages(story, last),
        "Scores of the base model and of this one on the same items; the interval is that of the paired "
        "difference, and verdicts are corrected for the number of probes (Holm).",
        _changes(story, last),
        *_base_model(story),
        f"Made by {code(story.command)}, seed {story.seed}; suite {code(suite)}.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(story: Story, last: Stage) -> dict[str, Any]:
    assert last.row is not None
    results = [
        {
            "task": {"type": "text-generation"},
            # No data set of the hub: a probe of a suite, which its hash pins.
            "dataset": {
                "name": clean(probe.name),
                "type": f"cpt probe suite {clean(story.suite)}",
                "args": {"suite": clean(story.suite), "suite_hash": story.suite_hash},
            },
            "metrics": [
                {"type": probe.metric, "value": round(last.row.scores[probe.name].value, 6)}
            ],
        }
        for probe in story.probes
        if probe.name in last.row.scores
    ]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["continual-post-training", *dict.fromkeys(s.kind for s in story.stages[1:])],
    }
    if named := _hub_model(story):
        front = {"base_model": clean(named), **front}
    return {**front, "model-index": [{"name": clean(story.name), "results": results}]}


def _hub_model(story: Story) -> str:
    """The base model's id on the hub; "" where it is a folder."""
    model = story.recipe.get("model")
    named = str(model.get("path") or "") if isinstance(model, dict) else ""
    return "" if named.startswith((".", "/", "~", "$")) else named


def _base_model(story: Story) -> list[str]:
    """Which weights it began with: front matter has no place for a revision."""
    named, model = _hub_model(story), story.recipe.get("model")
    revision = model.get("revision") if isinstance(model, dict) else None
    return [f"Base model: {code(named)}, revision {code(revision)}."] if named and revision else []


def _stages(story: Story, last: Stage) -> str:
    """The stages up to the last one that is probed."""
    rows = []
    for stage in story.stages[1 : story.stages.index(last) + 1]:
        told = ["; ".join(data_lines(stage)), "; ".join(hook_lines(stage)) or "none"]
        rows.append([escape(stage.name), escape(stage.kind), *map(escape, told), code(stage.id)])
    return table(["stage", "kind", "data", "hooks", "id"], rows, left=5)


def _changes(story: Story, last: Stage) -> str:
    assert last.row is not None
    rows = []
    for change in sorted(
        last.from_base, key=lambda one: [p.name for p in story.probes].index(one.probe)
    ):
        probe = story.probe(change.probe)
        after = last.row.scores[change.probe].value
        rows.append(
            [
                f"{escape(probe.name)} ({escape(unit(probe))})",
                value(after - change.delta, probe),
                value(after, probe),
                difference(change.delta, probe),
                interval(change, probe),
                word(change),
                str(change.num_items),
            ]
        )
    heads = ["probe", "base", "this model", "change", "95 % interval", "verdict", "items"]
    return table(heads, rows)
