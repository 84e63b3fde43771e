"""What manifests say about a stage, as lines of text: origin, data, hooks, notes, seconds."""

from collections.abc import Mapping
from dataclasses import dataclass

from eval.report.story import Stage, Story
from eval.report.text import settings, shorten


@dataclass(frozen=True)
class Times:
    """Seconds by part: `parts` are columns, `rows` are (stage, part -> seconds)."""

    parts: tuple[str, ...]
    rows: tuple[tuple[Stage, dict[str, float]], ...]

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return sum(sum(seconds.values()) for _, seconds in self.rows)


def facts(stage: Stage) -> list[tuple[str, list[str]]]:
    """Name and lines of each fact; facts without a line are left out."""
    manifest = stage.manifest
    origin = [" and ".join(stage.parents)] if stage.parents else []
    origin += [f"reference {stage.reference}"] if stage.reference else []
    world = manifest.get("world") or {}
    ran = f"{world.get('size', 1)} x {world.get('device', '?')}, {world.get('backend', '?')}"
    told = [
        ("from", origin),
        ("data", data_lines(stage)),
        ("hooks", hook_lines(stage) or ["none"]),
        ("steps", [str(manifest["num_steps"])] if manifest.get("num_steps") else []),
        ("ran on", [ran] if world else []),
        ("notes", [str(note) for note in manifest.get("notes") or []]),
    ]
    return [(name, lines) for name, lines in told if lines]


def hook_lines(stage: Stage) -> list[str]:
    """Each hook with its settings; before the stage is finished only the names are known."""
    hooks = stage.manifest.get("hooks") or [{"name": name} for name in stage.hooks]
    return [
        f"{hook['name']} ({settings(hook['settings'])})" if hook.get("settings") else hook["name"]
        for hook in hooks
    ]


def data_lines(stage: Stage) -> list[str]:
    """Each source with its rows and tokens, and the rows that were left out."""
    return [_data(entry) for entry in stage.manifest.get("data") or []]


def times(story: Story) -> Times:
    """Where the time went, probes among it."""
    rows = []
    for stage in story.stages:
        seconds = dict(stage.manifest.get("seconds") or {})
        if stage.probe_seconds is not None:
            seconds["probe"] = stage.probe_seconds
        if seconds:
            rows.append((stage, seconds))
    parts = dict.fromkeys(part for _, seconds in rows for part in seconds if part != "probe")
    return Times((*parts, "probe"), tuple(rows))


def _data(entry: Mapping[str, object]) -> str:
    source = entry.get("path") or " ".join(
        str(entry[key]) for key in ("builder", "source", "view") if entry.get(key)
    )
    parts = [shorten(source, 90)]
    parts += [
        f"{entry[key]:,} {key}" for key in ("rows", "tokens") if isinstance(entry.get(key), int)
    ]
    parts += [f"{entry['bad_rows']} bad rows left out"] if entry.get("bad_rows") else []
    return ", ".join(parts)
