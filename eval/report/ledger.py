"""What a chain cost: tokens, seconds, memory and disk of every stage, by what they were spent on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.report.text import duration

#: Files and folders of a stage -> what they are for; what is not named here is `other`.
_PLACES = {
    "checkpoint": "checkpoint",
    "adapter": "adapter",
    "memory": "hooks' memory",
    "exemplars.jsonl": "exemplars",
    "probes": "probes",
    "watch": "looks",
    "candidates": "candidates",
}

#: Columns of memory -> places of a manifest's `memory`.
MEMORY = {"peak memory, host": "peak", "peak memory, accelerator": "accelerator"}


@dataclass(frozen=True)
class Entry:
    """One stage of the ledger.

    Attributes:
        tokens: that it trained on, each as often as it was seen; None where nothing says so.
        seconds: by part, probes among them.
        memory: peak in bytes, by place.
        disk: bytes by what they are for.
    """

    stage: str
    tokens: int | None
    steps: int
    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    disk: Mapping[str, int]


def entry(
    name: str,
    manifest: Mapping[str, object],
    seconds: Mapping[str, float],
    memory: Mapping[str, float],
    folder: Path,
) -> Entry:
    """A stage's entry, from its manifest and its folder.

    What a gate made has the data of the stage that it stands for in its manifest, and trained on none; files
    that are a second name for another stage's cost nothing.
    """
    steps, inputs = manifest.get("num_steps"), manifest.get("inputs")
    by_gate = isinstance(inputs, dict) and "stands_for" in inputs
    return Entry(
        name,
        None if by_gate else _tokens(manifest.get("data")),
        steps if isinstance(steps, int) else 0,
        seconds,
        memory,
        disk(folder, with_links=not by_gate),
    )


def disk(folder: Path, with_links: bool = True) -> dict[str, int]:
    """Bytes of a stage folder by what they are for; a link to a model elsewhere costs none here.

    Args:
        folder: of the stage.
        with_links: count files that have other names too.
    """
    found: dict[str, int] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = [place] if place.is_file() else place.rglob("*") if not place.is_symlink() else ()
        there = [file.lstat() for file in files if file.is_file() and not file.is_symlink()]
        size = sum(one.st_size for one in there if with_links or one.st_nlink == 1)
        what = _PLACES.get(place.name, "other")
        found[what] = found.get(what, 0) + size
    return {what: size for what, size in found.items() if size}


def heads(entries: Sequence[Entry]) -> list[str]:
    """The columns that any entry has something for."""
    parts = dict.fromkeys(part for one in entries for part in one.seconds if part != "probe")
    probed = any("probe" in one.seconds for one in entries)
    return [
        "steps",
        "tokens",
        *parts,
        *(["probe"] if probed else []),
        "total",
        *(head for head, place in MEMORY.items() if any(place in one.memory for one in entries)),
        "disk",
    ]


def cells(one: Entry, heads: Sequence[str]) -> list[str]:
    """One row under these heads."""
    told = {
        "steps": f"{one.steps:,}" if one.steps else "",
        "tokens": f"{one.tokens:,}" if one.tokens else "",
        "total": duration(sum(one.seconds.values())),
        **{
            head: gib(one.memory[place]) if place in one.memory else ""
            for head, place in MEMORY.items()
        },
        "disk": ", ".join(f"{what} {gib(size)}" for what, size in _largest(one.disk)),
    }
    return [
        told[head] if head in told else duration(one.seconds[head]) if head in one.seconds else ""
        for head in heads
    ]


def total(entries: Sequence[Entry]) -> str:
    """All stages together, in a sentence."""
    seconds = sum(sum(one.seconds.values()) for one in entries)
    probing = sum(one.seconds.get("probe", 0.0) for one in entries)
    tokens = sum(one.tokens or 0 for one in entries)
    size = sum(sum(one.disk.values()) for one in entries)
    share = f", {probing / seconds:.0%} of it probes" if seconds and probing else ""
    return (
        f"All together {duration(seconds)}{share}; {tokens:,} tokens trained; {gib(size)} on disk."
    )


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _largest(disk: Mapping[str, int]) -> list[tuple[str, int]]:
    """The parts that are worth a word."""
    ranked = sorted(disk.items(), key=lambda item: -item[1])
    return [(what, size) for what, size in ranked if size >= 2**16][:3]


def _tokens(data: object) -> int | None:
    """Tokens of every source that were trained on, each as often as it was."""
    if not isinstance(data, list | tuple) or not data:
        return None
    found = [
        entry.get("seen_tokens", entry["tokens"] * entry["epochs"])
        for entry in data
        if isinstance(entry.get("tokens"), int) and isinstance(entry.get("epochs"), int | float)
    ]
    return round(sum(found)) if found else None
