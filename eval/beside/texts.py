"""The comparison as JSON for tools and as Markdown for a pull request."""

from typing import Any

from eval.beside.judging import summary
from eval.beside.story import Generations, Story, Verdicts, preference, tally
from eval.beside.table import Column, Table
from eval.change import Change
from eval.report.columns import Probe
from eval.report.markdown import code, escape, table
from eval.report.text import number, signed
from eval.report.words import MARKS, difference, unit, value, word

VERSION = 1
_PM = "\u00b1"


def content(story: Story) -> dict[str, Any]:
    """All numbers as plain JSON values; differences in the metric's own direction."""
    found: dict[str, Any] = {
        "version": VERSION,
        "reference": story.reference,
        "models": [{"name": label, "place": place} for label, place in story.models],
    }
    if story.table:
        found["suite"] = {"name": story.table.suite, "hash": story.table.suite_hash}
        found |= {"level": story.table.level, "margin": story.table.margin}
        found["num_tests"] = story.table.num_tests
        found["template_note"] = story.table.template_note
        for model, column in zip(found["models"], story.table.columns, strict=True):
            model |= _numbers(column)
    if story.generations:
        found["answers"] = _generations(story.generations)
    if story.verdicts:
        found["judge"] = _judge(story.verdicts)
    return found


def change_numbers(change: Change) -> dict[str, Any]:
    """One change; `verdict` is the gate's, `word` also knows `improved`."""
    return {
        "delta": change.delta,
        "low": change.low,
        "high": change.high,
        "stderr": change.stderr,
        "margin": change.margin,
        "p_value": change.p_value,
        "p_holm": change.p_holm,
        "verdict": change.verdict,
        "word": word(change),
        "detectable": change.detectable,
        "num_items": change.num_items,
    }


def markdown(story: Story) -> str:
    """Tables and answers; text from models and prompts cannot break out of its cell."""
    parts = [f"# {' against '.join(escape(n) for n in _ordered(story))}"]
    if story.table:
        parts += [*(f"- {escape(line)}" for line in tally(story.table))]
        parts = [parts[0], "\n".join(parts[1:])]
        parts += [_table(story, story.table), _legend(story.table)]
        parts += [escape(story.table.template_note)]
    if story.verdicts:
        parts += [f"## Judged by {escape(story.verdicts.judge)}"]
        parts += ["\n".join(f"- {escape(summary(rate))}" for rate in story.verdicts.rates)]
    if story.generations:
        parts += _answers(story.generations)
    return "\n\n".join(part for part in parts if part) + "\n"


def _ordered(story: Story) -> list[str]:
    others = [label for label in story.labels if label != story.reference]
    return [", ".join(others), story.reference] if others else [story.reference]


def _numbers(column: Column) -> dict[str, Any]:
    scores = {
        name: {
            "value": score.value,
            "stderr": score.stderr,
            "num_items": len(score.items),
            "metric": score.metric,
            "group": score.group,
            "higher_is_better": score.higher_is_better,
            "fingerprint": score.fingerprint,
        }
        for name, score in column.row.scores.items()
    }
    changes = {name: change_numbers(change) for name, change in column.changes.items()}
    return {"id": column.row.id, "scores": scores, "changes": changes}


def _generations(generations: Generations) -> dict[str, Any]:
    return {
        "sampling": vars(generations.sampling),
        "mean_lengths": {a.model: a.mean_length for a in generations.answers},
        "notes": list(generations.notes),
        "files": list(generations.places),
        "prompts": [
            {
                "id": prompt.id,
                "messages": list(prompt.messages),
                "answers": {a.model: a.texts[prompt.id] for a in generations.answers},
            }
            for prompt in generations.prompts
        ],
    }


def _judge(verdicts: Verdicts) -> dict[str, Any]:
    rates = [
        {**vars(rate), "num_prompts": rate.num_prompts, "word": preference(rate)}
        for rate in verdicts.rates
    ]
    return {"name": verdicts.judge, "prompt": verdicts.prompt, "win_rates": rates}


def _table(story: Story, found: Table) -> str:
    head = ["probe"]
    for column in found.columns:
        head.append(escape(column.label))
        head += [f"{escape(column.label)}: difference, 95 % interval"] if column.changes else []
    rows = []
    for probe in found.probes:
        cells = [f"{escape(probe.name)} ({escape(unit(probe))})"]
        for column in found.columns:
            cells += _cells(column, probe)
        detectable = found.detectable(probe.name)
        rows.append([*cells, "" if detectable is None else value(detectable, probe)])
    if story.verdicts:
        rows.append([*_rate_cells(story, found), ""])
    return table([*head, "MDE"], rows)


def _cells(column: Column, probe: Probe) -> list[str]:
    score, change = column.row.scores.get(probe.name), column.changes.get(probe.name)
    cells = [f"{value(score.value, probe)} {_PM} {value(score.stderr, probe)}" if score else ""]
    if change:
        low, high = (difference(end, probe) for end in (change.low, change.high))
        kind = word(change)
        told = f"{difference(change.delta, probe)} ({low} to {high}) {MARKS[kind]} {kind}"
        cells.append(told)
    elif column.changes:
        cells.append("")
    return cells


def _rate_cells(story: Story, found: Table) -> list[str]:
    cells = ["judge prefers (win rate, %)"]
    for column in found.columns:
        rate = story.rate(column.label)
        if rate is None:
            cells += ["", *([""] if column.changes else [])]
            continue
        low, high = (signed(100 * (end - 0.5), 1) for end in (rate.low, rate.high))
        cells.append(f"{number(100 * rate.rate, 1)} {_PM} {number(100 * rate.stderr, 1)}")
        told = f"{signed(100 * (rate.rate - 0.5), 1)} ({low} to {high}) {MARKS[preference(rate)]}"
        cells.append(told)
    return cells


def _legend(found: Table) -> str:
    return (
        f"Suite {code(f'{found.suite}-{found.suite_hash}')}. {_PM} is one standard error; intervals are of "
        f"the paired difference to {escape(found.reference.stage)}. Regressed: worse than the margin allows, "
        f"after Holm over {found.num_tests} differences; improved likewise. Held: shown to be no worse than "
        f"the margin. "
        f"MDE: the smallest fall beyond the margin that is found in 4 of 5 cases."
    )


def _answers(generations: Generations) -> list[str]:
    parts = [f"## Answers to {len(generations.prompts)} prompts ({generations.sampling})"]
    parts += ["\n".join(f"- {escape(note)}" for note in generations.notes)]
    head = ["prompt", *(escape(answers.model) for answers in generations.answers)]
    rows = [
        [escape(p.text), *(escape(a.texts[p.id]) for a in generations.answers)]
        for p in generations.prompts
    ]
    return [*parts, table(head, rows, left=len(head))]
