"""What is told of each source of a stream, and when too much of it was left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from cpt.data import Reader, Rows, refuse_beyond
from cpt.data_spec import MAX_BAD
from cpt.errors import DataError
from stages.hygiene import SourceHygiene
from stages.tokenise import Tokenised

MANY_EPOCHS = 8


Read = Rows | Reader


def check(
    part: Tokenised, read: Read | None, num_rows: int, is_new: bool, max_bad: float = MAX_BAD
) -> None:
    """Refuse a source of which too much, or everything, was left out.

    `read` where it is a data set; `max_bad` where it is what an earlier stage left.
    """
    refuse_bad(part, read, num_rows, max_bad)
    if not len(part):
        refused = f", {part.num_refused} the chat template refuses" if part.num_refused else ""
        raise DataError(
            f"data {part.name}: no row is left once tokenised "
            f"({part.num_dropped} have no label{refused})"
        )
    if read is None or not is_new or not part.num_dropped:
        return
    total = num_rows + read.num_bad
    if read.num_bad + part.num_refused + part.num_dropped > read.spec.max_bad * total:
        raise DataError(
            f"data {part.name}: {part.num_dropped} of {total} rows have no label once they "
            f"are tokenised and cut to max_length, more than max_bad {read.spec.max_bad:g} allows"
        )


def refuse_bad(part: Tokenised, read: Read | None, num_rows: int, max_bad: float = MAX_BAD) -> None:
    """Rows that the template refuses are bad like those that could not be read."""
    if part.num_refused:
        num_bad, examples = (read.num_bad, read.examples_of_bad) if read else (0, ())
        max_bad = read.spec.max_bad if read else max_bad
        reasons = [*part.examples, *examples][:3]
        refuse_beyond(max_bad, num_bad + part.num_refused, num_rows + num_bad, reasons, part.name)


def describe_sources(
    parts: Sequence[Tokenised],
    read: Sequence[Read | None],
    given: Sequence[Mapping[str, Any]],
    unit: str,
    looks: Sequence[SourceHygiene],
    num_new: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Of each source, the new ones first, what the manifest says, and what a person should know.

    `given` of each, by `stages.seen.counts`.
    """
    description, notes = [], []
    for number, (part, source, look) in enumerate(zip(parts, read, looks, strict=True)):
        name, epochs, is_new = part.name, given[number]["epochs"], number < num_new
        entry: dict[str, Any] = {
            "name": name,
            "rows": len(part),
            "tokens": part.total,
            "unit": unit,
            **given[number],
            "replayed": not is_new,
            "dropped_rows": part.num_dropped,
            **look.counts(),
        }
        if look.told():
            notes.append(f"{name}: {look.told()}")
        num_bad, examples = part.num_refused, part.examples[:1]
        if source is not None:
            num_bad += source.num_bad
            examples = [*source.examples_of_bad[:1], *examples]
        if is_new or num_bad:
            entry["bad_rows"] = num_bad
        if is_new and source is not None:
            entry["content"] = source.spec.content()
        if num_bad:
            notes.append(f"{name}: left out {num_bad} bad rows: {'; '.join(examples)}")
        if part.num_dropped:
            notes.append(
                f"{name}: left out {part.num_dropped} rows without a label after tokenising"
            )
        if epochs > MANY_EPOCHS:
            notes.append(f"{name}: each row is seen {epochs:.1f} times; it may be learnt by heart")
        description.append(entry)
    return description, notes
