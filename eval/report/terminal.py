"""The report on a terminal: what a stage changed, then the matrix so far."""

from collections.abc import Sequence
from textwrap import wrap

from eval.change import Change
from eval.report.columns import Probe
from eval.report.facts import gate_lines
from eval.report.story import Stage, Story
from eval.report.text import clean, duration, shorten
from eval.report.words import (
    MARKS,
    MEANINGS,
    Word,
    by_weight,
    difference,
    drifts,
    value,
    word,
)
from eval.template import note

_COLOURS: dict[Word, str] = {
    "regressed": "1;33",
    "improved": "1;34",
    "undecided": "2",
    "held": "",
}
_ASCII: dict[Word, str] = {"regressed": "v", "improved": "^", "undecided": "?", "held": "="}
_LONGEST_NAME = 26


class _Pen:
    """Colours and signs beyond ASCII, or neither."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour
        self.plus_minus = "\u00b1" if colour else "+-"

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text

    def mark(self, kind: Word) -> str:
        return MARKS[kind] if self.colour else _ASCII[kind]


def terminal(story: Story, stage: str | None, width: int, colour: bool) -> str:
    """What the stage changed against the base model and its predecessor, and the matrix.

    Args:
        stage: its name; None is the last probed one.
        width: columns of the terminal; narrower ones drop the predecessor and fold the matrix.
        colour: ANSI colours and signs beyond ASCII; leave it off for a file or a plain terminal.
    """
    pen = _Pen(colour)
    chosen = (
        next((s for s in story.stages if s.name == stage), None) if stage else story.last_probed
    )
    lines = [_title(story, chosen, pen), ""]
    if chosen and chosen.from_base:
        lines += [*_changes(story, chosen, width, pen), ""]
        for text in ([drifts(story, chosen)], gate_lines(chosen)):
            if told := [part for line in text if line for part in wrap(clean(line), width)]:
                lines += [*told, ""]
    if story.matrix.rows:
        lines += [*_matrix(story, width, pen), "", *_legend(story, width, pen)]
        if asked := note(story.matrix.rows):
            lines += ["", *wrap(clean(asked), width)]
    else:
        lines.append("nothing has been probed yet")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _title(story: Story, stage: Stage | None, pen: _Pen) -> str:
    parts = [pen.paint(clean(story.name), "1")]
    if stage:
        parents = " + ".join(stage.parents)
        origin = f"{stage.name} after {parents}" if parents else f"{stage.name} ({stage.id})"
        parts.append(clean(origin))
        if stage.verdict:
            code = "1;34" if stage.verdict.action == "pass" else "1;33"
            parts.append(f"gate: {pen.paint(stage.verdict.action, code)}")
        if stage.probe_seconds:
            parts.append(f"probed in {duration(stage.probe_seconds)}")
    return "   ".join(parts)


def _changes(story: Story, stage: Stage, width: int, pen: _Pen) -> list[str]:
    """One line per probe, regressions first."""
    assert stage.row is not None
    indent = _name_width(story)
    steps = {change.probe: change for change in stage.from_predecessor}
    start, predecessor = story.matrix.rows[0].stage, stage.predecessor
    both = width >= indent + 66 and predecessor is not None and predecessor.stage != start
    wide = max(9, 1 + len(_brief(stage.name)))
    head = f"{'':{indent}}{_brief(start):>9}{_brief(stage.name):>{wide}}   "
    head += f"{'change from ' + _brief(start):<29}"
    head += f"from {_brief(predecessor.stage)}" if both and predecessor else ""
    lines = [pen.paint(head.rstrip(), "2")]
    for change in by_weight(stage.from_base):
        probe, kind = story.probe(change.probe), word(change)
        after = stage.row.scores[change.probe].value
        line = f"{shorten(probe.name, indent - 2):{indent}}"
        line += f"{value(after - change.delta, probe):>9}{value(after, probe):>{wide}}   "
        line += f"{_change(change, probe, pen):<17}" + pen.paint(f"{kind:<12}", _COLOURS[kind])
        step = steps.get(change.probe)
        if both and step:
            text = f"{_change(step, probe, pen)} {pen.mark(word(step))}"
            line += pen.paint(text, _COLOURS[word(step)])
        lines.append(line)
    return lines


def _change(change: Change, probe: Probe, pen: _Pen) -> str:
    return f"{difference(change.delta, probe)} {pen.plus_minus} {value(change.stderr, probe)}"


def _matrix(story: Story, width: int, pen: _Pen) -> list[str]:
    """Probes down, stages across: probes have long names, chains are short; folded if too wide."""
    stages = [stage for stage in story.stages if stage.row]
    indent = _name_width(story)
    texts = [_cell(stage, probe, pen)[0] for stage in stages for probe in story.probes]
    cell = 1 + max(len(text) for text in [*texts, *(_brief(stage.name) for stage in stages)])
    per_block = max(1, (width - indent) // cell)
    lines: list[str] = []
    for start in range(0, len(stages), per_block):
        block = stages[start : start + per_block]
        lines += [""] if lines else []
        heads = "".join(f"{_brief(stage.name) + ' ':>{cell}}" for stage in block)
        lines.append(pen.paint(f"{'':{indent}}{heads}", "2"))
        lines += [_matrix_line(probe, block, indent, cell, pen) for probe in story.probes]
    return lines


def _matrix_line(probe: Probe, stages: Sequence[Stage], indent: int, cell: int, pen: _Pen) -> str:
    line = f"{shorten(probe.name, indent - 2):{indent}}"
    for stage in stages:
        text, kind = _cell(stage, probe, pen)
        line += pen.paint(f"{text:>{cell}}", _COLOURS[kind] if kind else "")
    return line


def _cell(stage: Stage, probe: Probe, pen: _Pen) -> tuple[str, Word | None]:
    score = stage.row.scores.get(probe.name) if stage.row else None
    if score is None:
        return "- ", None
    change = next((change for change in stage.from_base if change.probe == probe.name), None)
    kind = word(change) if change else None
    error = value(score.stderr, probe).removeprefix("0")
    text = f"{value(score.value, probe)}{pen.plus_minus}{error}"
    return f"{text}{pen.mark(kind) if kind else ' '}", kind


def _legend(story: Story, width: int, pen: _Pen) -> list[str]:
    marks = ", ".join(f"{pen.mark(kind)} {meaning}" for kind, meaning in MEANINGS.items())
    lines = [f"against base: {marks}"]
    notes = [f"{pen.plus_minus} one standard error"]
    shares = dict.fromkeys(probe.metric for probe in story.probes if probe.scale == 100)
    judged = [probe for probe in story.probes if not probe.is_drift]
    lower = [probe.name for probe in judged if not probe.higher_is_better]
    notes += [f"{', '.join(shares)} in %"] if shares else []
    notes += [f"lower is better: {', '.join(lower)}"] if lower else []
    lines = [part for line in [*lines, "; ".join(notes)] for part in wrap(clean(line), width)]
    return [pen.paint(line, "2") for line in lines]


def _name_width(story: Story) -> int:
    return 2 + min(_LONGEST_NAME, max((len(probe.name) for probe in story.probes), default=0))


def _brief(name: str) -> str:
    return shorten(name, 12, ".")
