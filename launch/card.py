"""The model card of one stage: its chain's, up to this stage, or what its manifest alone can tell."""

import json
from dataclasses import replace
from pathlib import Path

import yaml

from cpt.chain_file import LISTED, read_chain
from cpt.errors import StoreError
from cpt.manifest import Manifest
from cpt.store import Store
from eval.report.gather import gather
from eval.report.markdown import code, escape, table
from eval.report.model_card import model_card
from eval.report.story import Story
from launch.public import public


def card(stage: Path, entry: Manifest) -> str:
    """Markdown with the front matter that the hub reads; it names no place of this machine."""
    for folder in _chains(stage, entry.id):
        story = _until(gather(folder, stage.parent), entry.id)
        is_probed = story.stages[-1].row is not None
        if is_probed and (told := model_card(replace(story, command=public(story.command)))):
            return _titled(entry, told)
    return _titled(entry, _plain(entry))


def _chains(stage: Path, stage_id: str) -> list[Path]:
    """Folders of the chains that a stage is in; a stage by hand is in none."""
    if stage.parent.name != "stages":
        return []
    found = []
    for file in sorted(Store(stage.parent.parent).root.glob("chains/*/chain.json")):
        try:
            nodes = read_chain(file, LISTED)["nodes"]
        except StoreError:
            continue  # another chain may tell; cpt ls names the damaged one
        if stage_id in [node["id"] for node in nodes]:
            found.append(file.parent)
    return found


def _until(story: Story, stage_id: str) -> Story:
    """The story as it was when the stage was the last one."""
    ids = [stage.id for stage in story.stages]
    stages = story.stages[: ids.index(stage_id) + 1]
    names = [stage.name for stage in stages]
    rows = tuple(row for row in story.matrix.rows if row.stage in names)
    return replace(story, stages=stages, matrix=replace(story.matrix, rows=rows))


def _titled(entry: Manifest, text: str) -> str:
    head, mark, rest = text.removeprefix("---\n").partition("\n---")
    assert mark
    return f"---\n{head}\n---\n\n# {escape(entry.name)} ({entry.id})\n\n{rest.strip()}\n"


def _plain(entry: Manifest) -> str:
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["continual-post-training", *dict.fromkeys([entry.kind])],
    }
    line = [(each.name, each.kind, each.id) for each in entry.past]
    rows = [
        [escape(n), escape(k), code(i)] for n, k, i in [*line, (entry.name, entry.kind, entry.id)]
    ]
    data = [
        f"- {escape(public(each.get('name', '?')))}: {each.get('rows', '?')} rows"
        for each in entry.data
    ]
    hooks = [
        f"- {code(hook['name'])} {code(json.dumps(public(hook.get('settings', {}))))}"
        for hook in entry.hooks
    ]
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        "## Continual post-training",
        table(["stage", "kind", "id"], rows, left=3),
        *(["Data:\n\n" + "\n".join(data)] if data else []),
        *(["Hooks:\n\n" + "\n".join(hooks)] if hooks else []),
        "No probe was measured on it in this chain.",
    ]
    return "\n\n".join(parts) + "\n"
