"""The report as Markdown, to be pasted into a pull request or a model card."""

import re
from collections.abc import Sequence

from eval.change import Change
from eval.noise import sentence
from eval.report import kept, kl, ledger, logged, watched
from eval.report.columns import Probe
from eval.report.facts import data_lines, gate_lines, hook_lines, packages
from eval.report.story import Stage, Story
from eval.report.text import clean, compact, scalar, shorten
from eval.report.words import (
    AGAINST_OTHER,
    MARKS,
    difference,
    drifts,
    interval,
    sentences,
    unit,
    value,
    word,
)
from eval.template import note

NUM_EXAMPLES = 4
_PM = "\u00b1"
# Who is named so is told of it, wherever the report is pasted.
# Underscores inside of words, as in names of probes, are no emphasis.
_MENTION = re.compile(r"(?<![A-Za-z0-9])@(?=[A-Za-z0-9])")
_OUTER_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def markdown(story: Story) -> str:
    """All tables of the report; text from models, data and recipes cannot break out of its cell."""
    suite = f"{story.suite}-{story.suite_hash}"
    parts = [
        f"# {escape(story.name)}",
        f"{' '.join(escape(sentence) for sentence in sentences(story))}",
        f"{code(story.command)}, seed {story.seed}, suite {code(suite)}",
    ]
    if story.matrix.rows:
        parts += ["## Stages x probes", _matrix(story), _legend(story)]
        parts += [escape(sentence(story.noise))] if story.noise else []
        parts += [escape(asked)] if (asked := note(story.matrix.rows)) else []
    if story.comparison:
        parts += [f"## Against {escape(story.comparison.other.name)}", _comparison(story)]
    if story.continual:
        metrics = [[*map(escape, line)] for line in kept.rows(story.continual)]
        groups = [[*map(escape, line)] for line in kept.group_rows(story.groups)]
        parts += ["## What the chain kept", table(kept.HEADS, metrics)]
        parts += [escape(kept.reasons(story.continual)), table(kept.GROUP_HEADS, groups)]
    for stage in story.stages:
        if stage.from_base:
            parts += [f"## After {escape(stage.name)}", *_stage(story, stage)]
    if lines := kl.rows(story):
        parts += ["## KL against forgetting", kl.ABOUT]
        parts.append(table(kl.HEADS, [[*map(escape, line)] for line in lines], left=3))
        fits = [(name, kl.paths(story, kind)) for kind, name in kl.KINDS.items()]
        parts += [escape(f"{name}: {kl.fit_line(found)}") for name, found in fits if found]
    if story.flips.lost or story.flips.won:
        parts += ["## Items that flipped", _flips(story)]
    parts += ["## Lineage", _lineage(story)]
    if story.ledger:
        parts += ["## What it cost", _cost(story)]
    if versions := packages(story):
        told = [f"{name} {', '.join(found)}" for name, found in versions.items()]
        parts += ["## Packages", escape("; ".join(told))]
    if story.recipe:
        parts.append(
            "The recipe as resolved is `recipe.yaml` beside this file, and in `report.json`."
        )
    return "\n\n".join(parts) + "\n"


def escape(text: object) -> str:
    """Text that stays text inside a Markdown line or table cell, whatever is in it."""
    line = " ".join(clean(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]#|~!])", r"\\\1", line)
    line = _OUTER_UNDERSCORE.sub(r"\\_", line)
    # GitHub looks for names and formulas after backslashes are gone: what breaks them is what it documents.
    return _MENTION.sub("@&#8203;", line).replace("$", "<span>$</span>")


def code(text: object) -> str:
    """Text in backticks, or escaped text where it has signs that backticks do not hold."""
    line = " ".join(clean(text).split())
    return f"`{line}`" if line and not set("`|<>&\\") & set(line) else escape(line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table of cells that are escaped already; the first `left` columns stand left."""
    rule = [":---" if index < left else "---:" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def _matrix(story: Story) -> str:
    """Probes down, so that names and units fit a page; the last column is the change so far."""
    stages = [stage for stage in story.stages if stage.row]
    last = stages[-1]
    head = ["probe", *(escape(stage.name) for stage in stages)]
    head += ["change from base"] if last.from_base else []
    rows = []
    for probe in story.probes:
        cells = [f"{escape(probe.name)} ({escape(unit(probe))})"]
        cells += [_cell(stage, probe) for stage in stages]
        if last.from_base:
            change = _of(last.from_base, probe)
            cells.append(f"{_change(change, probe)} **{word(change)}**" if change else "")
        rows.append(cells)
    return table(head, rows)


def _cell(stage: Stage, probe: Probe) -> str:
    score = stage.row.scores.get(probe.name) if stage.row else None
    if score is None:
        return ""
    change = _of(stage.from_base, probe)
    mark = f" {MARKS[word(change)]}" if change and word(change) in ("regressed", "improved") else ""
    return f"{value(score.value, probe)} {_PM} {value(score.stderr, probe)}{mark}"


def _legend(story: Story) -> str:
    percent = any(probe.scale == 100 for probe in story.probes)
    points = f", {compact(100 * story.margin)} points where scores are in %" if percent else ""
    return (
        f"{_PM} is one standard error, of the paired difference for changes. {MARKS['improved']} "
        f"improved: a rise is shown, corrected likewise. {MARKS['regressed']} regressed: worse than the "
        f"margin ({scalar(story.margin)}{points}) allows, Holm-corrected over probes and verdicts. Held: "
        f"shown to be no worse than the margin. Undecided: too few items to tell."
    )


def _comparison(story: Story) -> str:
    comparison = story.comparison
    assert comparison is not None
    base = story.matrix.rows[0]
    head = [
        "probe",
        "base",
        f"{escape(comparison.other.name)}, {escape(comparison.other_row.stage)}",
    ]
    head += [
        f"{escape(story.name)}, {escape(comparison.row.stage)}",
        "difference",
        "95 % interval",
        "",
    ]
    rows = []
    for probe in story.probes:
        change = _of(comparison.changes, probe)
        if change:
            cells = [
                f"{value(row.scores[probe.name].value, probe)} {_PM} "
                f"{value(row.scores[probe.name].stderr, probe)}"
                if probe.name in row.scores
                else ""
                for row in (base, comparison.other_row, comparison.row)
            ]
            verdict = AGAINST_OTHER[word(change)]
            rows.append(
                [
                    escape(probe.name),
                    *cells,
                    _change(change, probe),
                    interval(change, probe),
                    verdict,
                ]
            )
    return table(head, rows)


def _stage(story: Story, stage: Stage) -> list[str]:
    """Changes against base and predecessor, and what the gate said."""
    start, predecessor = story.matrix.rows[0].stage, stage.predecessor
    both = predecessor is not None and predecessor.stage != start
    head = ["probe", f"change from {escape(start)}", "95 % interval", "verdict", "items", "detects"]
    head += [f"change from {escape(predecessor.stage)}"] if both and predecessor else []
    rows = []
    for probe in story.probes:
        change = _of(stage.from_base, probe)
        if change is None:
            continue
        cells = [escape(probe.name), _change(change, probe), interval(change, probe)]
        cells += [word(change), str(change.num_items), value(change.detectable, probe)]
        step = _of(stage.from_predecessor, probe)
        cells += [f"{_change(step, probe)} {word(step)}" if step else ""] if both else []
        rows.append(cells)
    told = "Detects: how far below the margin a fall is found four times in five, after the correction."
    parts = [table(head, rows), told]
    if stage.flips.lost or stage.flips.won:
        counts = (
            f"{len(stage.flips.lost)} items right to wrong, {len(stage.flips.won)} wrong to right"
        )
        parts.append(f"From {escape(predecessor.stage if predecessor else start)}: {counts}.")
    if lines := logged.rows(stage):
        parts += ["What hooks logged:", table(logged.HEADS, [[*map(escape, one)] for one in lines])]
    if shifted := drifts(story, stage):
        parts.append(escape(shifted))
    if stage.verdict:
        gate = f"Gate: **{stage.verdict.action}**"
        said = [*stage.verdict.messages, *gate_lines(stage)]
        parts.append("\n".join([gate, "", *(f"- {escape(m)}" for m in said)]))
    if stage.looks.gaps:
        rows = [[*map(escape, watched.gap_cells(gap))] for gap in stage.looks.gaps]
        parts += [
            f"While it trained, suite {escape(stage.looks.suite)}:",
            table(watched.GAP_HEADS, rows),
        ]
    if stage.looks.lowest:
        rows = [[*map(escape, line)] for line in watched.lowest_rows(stage.looks)]
        parts += [table(watched.LOWEST_HEADS, rows), watched.ABOUT]
    parts += [f"Not read: {escape(problem)}" for problem in stage.looks.unreadable]
    return parts


def _flips(story: Story) -> str:
    """From the base model to the last checkpoint: counts, and a few items with both answers."""
    found, last = story.flips, story.last_probed
    assert last is not None
    start = story.matrix.rows[0].stage
    counts = f"{len(found.lost)} right to wrong, {len(found.won)} wrong to right"
    rows = [
        [way, *(escape(shorten(text, 160)) for text in texts)]
        for way, some in (("to wrong", found.lost), ("to right", found.won))
        for flip in some[:NUM_EXAMPLES]
        for texts in [(flip.probe, flip.question, flip.answer_before, flip.answer_after)]
    ]
    head = ["flipped", "probe", "question", escape(start), escape(last.name)]
    lead = f"From {escape(start)} to {escape(last.name)}: {counts}."
    return f"{lead}\n\n{table(head, rows, left=len(head))}"


def _lineage(story: Story) -> str:
    head = ["stage", "id", "from", "reference", "hooks", "data", "status"]
    rows = []
    for stage in story.stages:
        texts = [", ".join(stage.parents), stage.reference or ""]
        texts += ["; ".join(hook_lines(stage)), "; ".join(data_lines(stage)), stage.status]
        rows.append([escape(stage.name), code(stage.id), *(escape(text) for text in texts)])
    return table(head, rows, left=len(head))


def _cost(story: Story) -> str:
    entries = story.ledger
    heads = ledger.heads(entries)
    rows = [[escape(one.stage), *map(escape, ledger.cells(one, heads))] for one in entries]
    return f"{table(['stage', *map(escape, heads)], rows)}\n\n{ledger.total(entries)}"


def _of(changes: Sequence[Change], probe: Probe) -> Change | None:
    return next((change for change in changes if change.probe == probe.name), None)


def _change(change: Change, probe: Probe) -> str:
    return f"{difference(change.delta, probe)} {_PM} {value(change.stderr, probe)}"
