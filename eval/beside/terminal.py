"""Models side by side on a terminal: probes down, models across, folded where it is narrow."""

from textwrap import wrap

from eval.beside.judging import summary
from eval.beside.story import Generations, Story, preference, tally
from eval.beside.table import Column, Table
from eval.report.columns import Probe
from eval.report.text import clean, number, shorten, signed
from eval.report.words import MARKS, MEANINGS, Word, difference, value, word

_COLOURS: dict[Word, str] = {"regressed": "1;33", "improved": "1;34", "undecided": "2", "held": ""}
_ASCII: dict[Word, str] = {"regressed": "v", "improved": "^", "undecided": "?", "held": "="}
_LONGEST_NAME, _LONGEST_LABEL = 32, 24
_NUM_SHOWN, _NUM_LINES = 3, 6
_PREFERENCE = "judge prefers"

Cell = tuple[str, str, Word | None]


class _Pen:
    """Colours and signs beyond ASCII, or neither."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour
        self.plus_minus = "\u00b1" if colour else "+-"

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text.strip() else text

    def mark(self, kind: Word) -> str:
        return MARKS[kind] if self.colour else _ASCII[kind]


def terminal(story: Story, width: int, colour: bool) -> str:
    """The comparison as text.

    Args:
        width: columns of the terminal; models that do not fit go below.
        colour: ANSI colours and signs beyond ASCII; leave it off for a file or a plain terminal.
    """
    pen = _Pen(colour)
    lines = _key(story, width, pen)
    if story.table:
        lines += ["", *_table(story, story.table, width, pen)]
        lines += ["", *_legend(story, story.table, width, pen)]
        told = [part for line in tally(story.table) for part in _wrapped(line, width)]
        lines += ["", *told]
    if story.generations:
        lines += ["", *_answers(story.generations, width, pen)]
    if story.verdicts:
        told = [f"judge: {story.verdicts.judge}", *map(summary, story.verdicts.rates)]
        lines += ["", *(part for line in told for part in _wrapped(line, width))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _wrapped(line: str, width: int) -> list[str]:
    """Lines of text; a long path stays in one piece, to be copied."""
    return wrap(clean(line), max(20, width), subsequent_indent="  ", break_long_words=False)


def _key(story: Story, width: int, pen: _Pen) -> list[str]:
    table = story.table
    what = f"suite {table.suite}-{table.suite_hash}   " if table else ""
    lines = [pen.paint(f"{what}differences are to {clean(story.reference)}", "1")]
    longest = max(12, min(40, width - 32))
    indent = 2 + max(len(shorten(label, longest)) for label in story.labels)
    for index, (label, place) in enumerate(story.models, start=1):
        room = max(20, width - indent - 5)
        told = place if len(place) <= room else "..." + place[3 - room :]
        lines.append(f"  {index}  {shorten(label, longest):{indent}}{pen.paint(clean(told), '2')}")
    return lines


def _table(story: Story, table: Table, width: int, pen: _Pen) -> list[str]:
    """Two lines a probe: scores, and below them the differences with their intervals."""
    names = [shorten(probe.name, _LONGEST_NAME) for probe in table.probes]
    blocks = [_column(story, column, table, pen) for column in table.columns]
    if story.verdicts:
        names.append(_PREFERENCE)
    indent = 2 + max(map(len, names))
    found = [table.detectable(probe.name) for probe in table.probes]
    last = ["" if f is None else value(f, p) for f, p in zip(found, table.probes, strict=True)]
    last += [""] * (len(names) - len(last))
    room, lines = width - indent - 8, list[str]()
    rest = list(range(len(blocks)))
    while rest:
        taken = [rest.pop(0)]
        while rest and sum(_width(blocks[i]) for i in [*taken, rest[0]]) <= room:
            taken.append(rest.pop(0))
        lines += [""] if lines else []
        chosen = [blocks[index] for index in taken]
        lines += _block(names, last, chosen, indent, with_detectable=not rest, pen=pen)
    return lines


def _block(
    names: list[str],
    last: list[str],
    blocks: list[list[Cell]],
    indent: int,
    with_detectable: bool,
    pen: _Pen,
) -> list[str]:
    head = "".join(f"{block[0][0]:<{_width(block)}}" for block in blocks)
    lines = [pen.paint(f"{'':{indent}}{head}{'MDE' if with_detectable else ''}".rstrip(), "2")]
    for row, name in enumerate(names, start=1):
        cells = [block[row] for block in blocks]
        widths = [_width(block) for block in blocks]
        first = "".join(f"{c[0]:<{w}}" for c, w in zip(cells, widths, strict=True))
        lines.append(f"{name:{indent}}{first}{last[row - 1] if with_detectable else ''}")
        if any(cell[1] for cell in cells):
            second = "".join(
                pen.paint(f"{c[1]:<{w}}", _COLOURS[c[2]] if c[2] else "")
                for c, w in zip(cells, widths, strict=True)
            )
            lines.append(f"{'':{indent}}{second}")
    return lines


def _width(block: list[Cell]) -> int:
    return 2 + max(len(text) for cell in block for text in cell[:2])


def _column(story: Story, column: Column, table: Table, pen: _Pen) -> list[Cell]:
    """Head, then a cell a probe: score, difference with its interval and mark, and its word."""
    index = story.labels.index(column.label) + 1
    cells: list[Cell] = [(f"{index} {shorten(column.label, _LONGEST_LABEL)}", "", None)]
    cells += [_cell(column, probe, pen) for probe in table.probes]
    if not story.verdicts:
        return cells
    rate = story.rate(column.label)
    if rate is None:
        return [*cells, ("-", "", None)]
    kind = preference(rate)
    score = f"{number(100 * rate.rate, 1)} {pen.plus_minus} {number(100 * rate.stderr, 1)}"
    low, high = (signed(100 * (end - 0.5), 1) for end in (rate.low, rate.high))
    told = f"{signed(100 * (rate.rate - 0.5), 1)} [{low}, {high}] {pen.mark(kind)}"
    return [*cells, (score, told, kind)]


def _cell(column: Column, probe: Probe, pen: _Pen) -> Cell:
    score, change = column.row.scores.get(probe.name), column.changes.get(probe.name)
    if score is None:
        return "-", "", None
    text = f"{value(score.value, probe)} {pen.plus_minus} {value(score.stderr, probe)}"
    if change is None:
        return text, "", None
    low, high = (difference(end, probe) for end in (change.low, change.high))
    kind = word(change)
    return text, f"{difference(change.delta, probe)} [{low}, {high}] {pen.mark(kind)}", kind


def _legend(story: Story, table: Table, width: int, pen: _Pen) -> list[str]:
    marks = ", ".join(f"{pen.mark(kind)} {meaning}" for kind, meaning in MEANINGS.items())
    shares = dict.fromkeys(probe.metric for probe in table.probes if probe.scale == 100)
    lower = [probe.name for probe in table.probes if not probe.higher_is_better]
    notes = [
        f"{pen.plus_minus} one standard error, [] 95 % interval of the paired difference",
        f"marks: {marks}; regressed and improved are each corrected after Holm over {table.num_tests} "
        "differences",
        "MDE: the smallest fall beyond the margin that is found in 4 of 5 cases, of the models the largest",
    ]
    notes += [f"{', '.join(shares)} in %"] if shares else []
    notes += [f"lower is better: {', '.join(lower)}"] if lower else []
    if story.verdicts:
        notes.append(
            "win rate of the judge in %, ties as half, difference to 50; its mark is its own interval's"
        )
    lines = wrap(clean("; ".join(notes)), width)
    return [pen.paint(line, "2") for line in lines]


def _answers(generations: Generations, width: int, pen: _Pen) -> list[str]:
    """The first few prompts with all answers."""
    total = len(generations.prompts)
    lines = [pen.paint(f"answers to {total} prompts ({generations.sampling})", "1")]
    for note in generations.notes:
        lines += _wrapped(f"note: {note}", width)
    for index, prompt in enumerate(generations.prompts[:_NUM_SHOWN], start=1):
        lines += ["", pen.paint(shorten(f"{index}. {prompt.text}", max(20, width)), "1")]
        for answers in generations.answers:
            lines.append(pen.paint(f"  {shorten(answers.model, 40)}", "2"))
            text = " ".join(clean(answers.texts[prompt.id]).split()) or "(nothing)"
            told = wrap(text, max(20, width - 4))
            lines += [f"    {line}" for line in told[:_NUM_LINES]]
            lines += ["    ..."] if len(told) > _NUM_LINES else []
    if total > _NUM_SHOWN:
        lines += ["", f"and {total - _NUM_SHOWN} more, side by side with --output FILE.html"]
    for answers, place in zip(generations.answers, generations.places, strict=True):
        length = f"{answers.model}: {answers.mean_length:.0f} characters an answer, {place}"
        lines += [pen.paint(line, "2") for line in _wrapped(length, width)]
    return lines
