"""A comparison of two models as JUnit XML, which CI services show as tests: one test case a probe.

`regressed` is a failure. `undecided` passes, with its sentence in `system-out`: the exit code is 0 too, and
`skipped` would say that the probe was not run, which some services count as an unstable build.
"""

from collections.abc import Mapping
from xml.etree import ElementTree

from eval.beside.sentences import sentence
from eval.beside.table import Column, Table
from eval.change import Change
from eval.matrix import Score
from eval.report.flips import flips
from eval.report.text import clean, shorten

_MOST_FLIPS = 5


def junit(table: Table, seconds: Mapping[str, float], command: str = "") -> str:
    """The report of the one model that is compared with the reference.

    Args:
        seconds: what each probe took to measure, where that is known.
        command: how it was made.
    """
    (column,) = (column for column in table.columns if column.row is not table.reference)
    found = column.changes
    failures = sum(change.verdict == "regressed" for change in found.values())
    total = sum(seconds.get(probe, 0.0) for probe in found)
    counts = {
        "tests": str(len(found)),
        "failures": str(failures),
        "errors": "0",
        "skipped": "0",
        "time": f"{total:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "cpt probe", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": clean(table.suite), **counts})
    undecided = sum(change.verdict == "undecided" for change in found.values())
    _properties(
        suite,
        {
            "model": column.label,
            "against": table.reference.stage,
            "suite": f"{table.suite}-{table.suite_hash}",
            "level": table.level,
            "undecided": undecided,
            "command": command,
        },
    )
    for probe, change in found.items():
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {
                "classname": clean(f"{table.suite}.{column.row.scores[probe].group}"),
                "name": clean(probe),
                "time": f"{seconds.get(probe, 0.0):.3f}",
            },
        )
        _case(case, table, column, change)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _case(case: ElementTree.Element, table: Table, column: Column, change: Change) -> None:
    score = column.row.scores[change.probe]
    _properties(case, _numbers(table, change, score))
    told = clean(sentence(change, score, table.num_tests))
    if change.verdict == "regressed":
        failure = ElementTree.SubElement(case, "failure", {"type": "regressed", "message": told})
        failure.text = "\n".join([told, *_flipped(table, column, change.probe)])
    else:
        ElementTree.SubElement(case, "system-out").text = f"{change.verdict}: {told}"


def _numbers(table: Table, change: Change, score: Score) -> dict[str, object]:
    return {
        "verdict": change.verdict,
        "metric": score.metric,
        "before": table.reference.scores[change.probe].value,
        "after": score.value,
        "difference": change.delta,
        "low": change.low,
        "high": change.high,
        "stderr": change.stderr,
        "margin": change.margin,
        "p_value": change.p_value,
        "p_holm": change.p_holm,
        "detectable": change.detectable,
        "num_items": change.num_items,
    }


def _properties(parent: ElementTree.Element, values: Mapping[str, object]) -> None:
    properties = ElementTree.SubElement(parent, "properties")
    for name, value in values.items():
        text = repr(value) if isinstance(value, float) else clean(value)
        if text:
            ElementTree.SubElement(properties, "property", {"name": name, "value": text})


def _flipped(table: Table, column: Column, probe: str) -> list[str]:
    """A few items that were right before, with both answers."""
    lost = [flip for flip in flips(table.reference, column.row).lost if flip.probe == probe]
    lines = [""] if lost else []
    for flip in lost[:_MOST_FLIPS]:
        lines.append(f"right before, wrong now: {shorten(flip.question, 200)}")
        for who, answer in (
            (table.reference.stage, flip.answer_before),
            (column.label, flip.answer_after),
        ):
            lines += [f"  {shorten(who, 60)}: {shorten(answer, 160)}"] if answer else []
    more = len(lost) - _MOST_FLIPS
    return [*lines, f"and {more} more"] if more > 0 else lines
