"""The report in plain language: one word per change, one paragraph made from numbers alone."""

from collections.abc import Iterable
from typing import Literal

from eval.change import Change
from eval.report.columns import Probe
from eval.report.story import Stage, Story
from eval.report.text import listing, number, signed

Word = Literal["regressed", "improved", "undecided", "held"]
WORDS: tuple[Word, ...] = ("regressed", "improved", "undecided", "held")
# Triangles, equals sign and question mark: the direction must not hang on colour.
MARKS: dict[Word, str] = {
    "regressed": "\u25bc",
    "improved": "\u25b2",
    "undecided": "?",
    "held": "=",
}
MEANINGS: dict[Word, str] = {
    "improved": "improved",
    "regressed": "regressed beyond the margin",
    "held": "held within the margin",
    "undecided": "too few items to tell",
}
AGAINST_OTHER: dict[Word, str] = {
    "regressed": "worse",
    "improved": "better",
    "undecided": "undecided",
    "held": "no worse",
}
GATE_SAYS = {
    "pass": "passes",
    "warn": "warns",
    "stop": "stops the chain",
    "rollback": "goes back to an earlier checkpoint",
    "repair": "repairs the checkpoint",
}


def word(change: Change) -> Word:
    """`regressed` first, then a rise that is certain, else what the non-inferiority test says."""
    if change.verdict == "regressed":
        return "regressed"
    return "improved" if change.improved else change.verdict


def value(amount: float, probe: Probe) -> str:
    """A score of this probe as it is printed, such as `55.0`."""
    return number(amount * probe.scale, probe.places)


def difference(amount: float, probe: Probe) -> str:
    """A difference of this probe's scores as it is printed, such as `+34.2`."""
    return signed(amount * probe.scale, probe.places)


def unit(probe: Probe) -> str:
    """`acc, %` or `bits per byte, lower is better`."""
    percent = ", %" if probe.scale == 100 else ""
    metric = probe.metric.replace("_", " ")
    if probe.is_drift:
        return f"{metric}{percent}, neither way is better"
    return f"{metric}{percent}{'' if probe.higher_is_better else ', lower is better'}"


def interval(change: Change, probe: Probe) -> str:
    """The 95 % interval of the raw difference, such as `+25.4 to +43.0`."""
    return f"{difference(change.low, probe)} to {difference(change.high, probe)}"


def drifts(story: Story, stage: Stage) -> str:
    """The changes from the base that are neither better nor worse, in one line; "" where there are none."""
    told = []
    for change in stage.shifted:
        probe = story.probe(change.probe)
        told.append(
            f"{probe.name} {difference(change.delta, probe)} (95 % interval {interval(change, probe)})"
        )
    return f"Drift, neither way is better: {', '.join(told)}" if told else ""


def by_weight(changes: Iterable[Change]) -> list[Change]:
    """What a reader must see first: regressions, then rises, then the rest; large ones first."""
    return sorted(
        changes,
        key=lambda change: (
            WORDS.index(word(change)),
            -abs(change.gain) / (change.margin or change.stderr or 1.0),
            change.probe,
        ),
    )


def sentences(story: Story) -> list[str]:
    """What the chain did to the model, in two to five sentences of plain text."""
    stage, base = story.last_probed, story.stages[0] if story.stages else None
    if stage is None or base is None:
        return ["No checkpoint of this chain has been probed yet."]
    if not stage.from_base:
        return [
            f"Only the base model has been probed so far ({_count(len(story.probes), 'probe')}): "
            f"it is the row that every later stage is measured against."
        ]
    after = f"After {stage.name}{_place(story, stage)}, compared with the base model:"
    domain = [c for c in stage.from_base if story.probe(c.probe).group == "domain"]
    general = [c for c in stage.from_base if story.probe(c.probe).group != "domain"]
    told = (
        [f"{after} {listing([_movement(story, change) for change in domain])}."] if domain else []
    )
    if general:
        start = "Of" if told else f"{after} of"
        many = _count(len(general), "general probe")
        told.append(f"{start} {many}, {_tally(story, general)}.")
    return [*told, *_gate(story, stage), *_versus(story)]


def _place(story: Story, stage: Stage) -> str:
    trained = len(story.stages) - 1
    index = story.stages.index(stage)
    return f" (stage {index} of {trained})" if index < trained else ""


def _movement(story: Story, change: Change) -> str:
    probe, stage = story.probe(change.probe), story.last_probed
    assert stage is not None
    assert stage.row is not None
    after = stage.row.scores[change.probe].value
    span = f"{value(after - change.delta, probe)} to {value(after, probe)}"
    unit = " %" if probe.scale == 100 else ""
    if change.low <= 0 <= change.high:
        return (
            f"{probe.name} shows no certain change ({span}{unit}, "
            f"95 % interval {interval(change, probe)})"
        )
    verb = "improved" if change.gain > 0 else "got worse"
    return (
        f"{probe.name} {verb} from {span}{unit} "
        f"({difference(change.delta, probe)}, 95 % interval {interval(change, probe)})"
    )


def _tally(story: Story, changes: list[Change]) -> str:
    parts = []
    for kind in WORDS:
        found = by_weight(change for change in changes if word(change) == kind)
        if not found and kind != "regressed":
            continue
        text = f"{len(found) or 'none'} {kind}"
        if kind == "regressed" and found:
            moves = [f"{c.probe} {difference(c.delta, story.probe(c.probe))}" for c in found]
            text += f" ({', '.join(moves)})"
        elif kind == "undecided":
            text += " (too few items to tell)"
        elif kind == "held":
            text += " within the margin"
        parts.append(text)
    return listing(parts)


def _gate(story: Story, stage: Stage) -> list[str]:
    if stage.verdict is None:
        return []
    says = GATE_SAYS[stage.verdict.action]
    earlier = [
        f"{other.name} ({', '.join(change.probe for change in other.verdict.regressed)})"
        for other in story.stages
        if other is not stage and other.verdict and other.verdict.regressed
    ]
    text = f"The gate {says}"
    return [
        f"{text}; on the way it found regressions after {listing(earlier)}."
        if earlier
        else f"{text}."
    ]


def _versus(story: Story) -> list[str]:
    if story.comparison is None:
        return []
    found = story.comparison.changes
    parts = []
    for kind in ("improved", "regressed", "held", "undecided"):
        names = [change.probe for change in found if word(change) == kind]
        if names:
            parts.append(f"{AGAINST_OTHER[kind]} on {listing(names)}")
    other, stage = story.comparison.other.name, story.comparison.row.stage
    return [f"Against {other} after {stage}: {'; '.join(parts)}."]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
