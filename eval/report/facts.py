"""What manifests say about a stage, as lines of text: origin, data, hooks, notes."""

from collections.abc import Mapping

from eval.report.story import Stage, Story
from eval.report.text import settings, shorten


def facts(stage: Stage) -> list[tuple[str, list[str]]]:
    """Name and lines of each fact; facts without a line are left out."""
    manifest = stage.manifest
    origin = [" and ".join(stage.parents)] if stage.parents else []
    origin += [f"reference {stage.reference}"] if stage.reference else []
    world = manifest.get("world") or {}
    ran = f"{world.get('size', 1)} x {world.get('device', '?')}, {world.get('backend', '?')}"
    told = [
        ("from", origin),
        ("merge", merge_lines(stage)),
        ("gate", gate_lines(stage)),
        ("data", data_lines(stage)),
        ("hooks", hook_lines(stage) or ([] if stage.gate else ["none"])),
        ("steps", [str(manifest["num_steps"])] if manifest.get("num_steps") else []),
        ("ran on", [ran] if world else []),
        ("notes", [str(note) for note in manifest.get("notes") or []]),
    ]
    return [(name, lines) for name, lines in told if lines]


def hook_lines(stage: Stage) -> list[str]:
    """Each hook with its settings; before the stage is finished only the names are known.

    What a gate made has those of the stage that it stands for in its manifest, and trained with none.
    """
    if stage.gate:
        return []
    hooks = stage.manifest.get("hooks") or [{"name": name} for name in stage.hooks]
    return [
        f"{hook['name']} ({settings(_told(hook['settings']))})"
        if hook.get("settings")
        else hook["name"]
        for hook in hooks
    ]


def merge_lines(stage: Stage) -> list[str]:
    """How a stage was made of others, where it was."""
    merge = (stage.manifest.get("inputs") or {}).get("merge") or {}
    rest = {key: value for key, value in merge.items() if key not in ("method", "steering")}
    told = settings(_told(rest))
    return [f"{merge['method']} ({told})" if told else merge["method"]] if merge else []


def gate_lines(stage: Stage) -> list[str]:
    """What the gate took in the place of a stage, and every attempt that it made; none are left out."""
    gate = stage.gate
    if not gate:
        return []
    where = "dev items" if gate.get("chosen_on") == "dev" else "the items that are reported"
    if where == "dev items" and (without := gate.get("without_dev")):
        where += f" ({', '.join(without)} on those that are reported)"
    attempts = gate.get("attempts") or []
    told = [f"taken: {gate.get('chosen')}; {len(attempts)} attempts, chosen on {where}"]
    if earlier := gate.get("earlier") or {}:
        other = ", ".join(f"{name} {number}" for name, number in earlier.items())
        told.append(f"attempts on the same result by other rules before: {other}")
    for number, attempt in enumerate(attempts, start=1):
        shares = attempt.get("shares") or []
        what = "/".join(f"{share:g}" for share in (shares if len({*shares}) > 1 else shares[:1]))
        what = f"{what} of the result" if shares else f"step {attempt.get('step')}"
        beyond = ", ".join(attempt.get("beyond") or []) or "none"
        skill = f"new skill {attempt.get('skill', 0.0):+.2f} margins"
        told.append(f"attempt {number}: {what}: {skill}; beyond its margin: {beyond}")
    return told


def packages(story: Story) -> dict[str, list[str]]:
    """Name -> versions with which stages were made, in the order of the names."""
    found: dict[str, dict[str, None]] = {}
    for stage in story.stages:
        for name, version in (stage.manifest.get("packages") or {}).items():
            found.setdefault(str(name), {})[str(version)] = None
    return {name: list(found[name]) for name in sorted(found)}


def data_lines(stage: Stage) -> list[str]:
    """Each source with its rows and tokens, and the rows that were left out; none of what a gate made."""
    if stage.gate:
        return []
    return [_data(entry) for entry in stage.manifest.get("data") or []]


def _data(entry: Mapping[str, object]) -> str:
    parts = [shorten(_source(entry), 90)]
    parts += [
        f"{entry[key]:,} {key}" for key in ("rows", "tokens") if isinstance(entry.get(key), int)
    ]
    share, epochs = entry.get("share"), entry.get("epochs")
    if isinstance(share, int | float) and isinstance(epochs, int | float):
        parts += [f"{share:.1%} of the stream", f"{epochs:.2f} epochs"]
    parts += [f"{entry['bad_rows']} bad rows left out"] if entry.get("bad_rows") else []
    return ", ".join(parts)


def _told(values: Mapping[str, object]) -> dict[str, object]:
    """Settings that say something: without empty ones, a data config by its name."""
    return {
        key: _source(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _source(entry: Mapping[str, object]) -> str:
    """What a data set is called: its name in the manifest, or what its config says of it."""
    words = [entry.get(key) for key in ("builder", "source", "view")]
    found = entry.get("name") or entry.get("path") or entry.get("hub")
    return str(found or " ".join(str(word) for word in words if word))
