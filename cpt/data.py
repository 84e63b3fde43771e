"""Data configs -> rows. Bad rows are counted, reported, and refused beyond a limit."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cpt.data_spec import DataSpec
from cpt.errors import DataError
from cpt.files import read_file, read_json
from cpt.rows import BROKEN, REQUIRED, Row, RowFormat, conversational, fault, format_of


@dataclass(frozen=True)
class Rows:
    """Rows of one source with the count of what was left out.

    Attributes:
        numbers: of each row, its number in the source, from 1.
    """

    spec: DataSpec
    rows: list[Row]
    format: RowFormat
    num_bad: int
    examples_of_bad: tuple[str, ...] = ()
    numbers: Sequence[int] = ()


def load_rows(
    spec: DataSpec,
    formats: tuple[RowFormat, ...],
    part: Literal["train", "validation"] = "train",
    most_characters: int | None = None,
) -> Rows:
    """Read the rows of one part of a data set.

    Args:
        spec: the data set.
        formats: what the stage can train on.
        part: training rows or the held-out ones.
        most_characters: end a streamed data set once its texts are so long.

    Raises:
        DataError: missing or empty data, a format that the stage does not take, too many bad rows.
    """
    good: list[Row] = []
    numbers = array("q")
    bad: list[str] = []
    found: RowFormat | None = None
    characters = 0
    seen: dict[str, None] = {}
    limit = spec.limit if part == "train" else spec.validation and spec.validation.limit
    for number, raw in _part(spec, part):
        seen |= dict.fromkeys(raw)
        row = {key: value for key, value in raw.items() if key not in spec.columns.values()}
        row |= {ours: raw.get(theirs) for ours, theirs in spec.columns.items()}
        row = conversational(row, spec.as_chat)
        found = found or format_of(row)
        reason = fault(row, found)
        if reason is None:
            good.append(row)
            numbers.append(number)
            characters += len(str(row[REQUIRED[found or "text"][0]]))
        else:
            bad.append(f"row {number}: {reason}")
        if limit and len(good) >= limit:
            break
        if spec.streaming and most_characters is not None and characters >= most_characters:
            break
    total = len(good) + len(bad)
    if total == 0:
        raise DataError(f"data {spec.label}: has no rows ({part})")
    if found is None or not good:
        columns = ", ".join(map(repr, seen.keys() - {BROKEN})) or "none"
        raise DataError(
            f"data {spec.label}: no usable row of {total}; {bad[0]}; its columns are {columns}; "
            f"map them with columns: {{ours: theirs}}"
        )
    if found not in formats:
        raise DataError(
            f"data {spec.label}: rows have the format {found!r} ({', '.join(REQUIRED[found])}); "
            f"this stage takes {' or '.join(formats)}"
        )
    refuse_beyond(spec.max_bad, len(bad), total, bad[:3], spec.label)
    return Rows(spec, good, found, len(bad), tuple(bad[:3]), numbers)


def refuse_beyond(
    max_bad: float, num_bad: int, total: int, examples: Sequence[str], name: str
) -> None:
    """Tolerate a share of bad rows, and no more.

    Raises:
        DataError: more than `max_bad` of all rows are bad; `examples` says why.
    """
    if num_bad > max_bad * total:
        raise DataError(
            f"data {name}: {num_bad} of {total} rows are bad, more than max_bad {max_bad:g} allows; "
            f"{'; '.join(examples)}"
        )


def _part(spec: DataSpec, part: str) -> Iterator[tuple[int, Row]]:
    """(row number from 1, row) of one part."""
    held_out = spec.validation
    rows = enumerate(_raw(spec, part), start=1)
    if held_out is None or held_out.fraction is None:
        return rows
    # A share of the rows: every k-th one, so that a longer file keeps its split.
    every = max(2, round(1 / held_out.fraction))
    wanted = part == "validation"
    return ((number, row) for number, row in rows if (number % every == 0) == wanted)


def _raw(spec: DataSpec, part: str) -> Iterator[Row]:
    held_out = spec.validation if part == "validation" else None
    if spec.builder:
        from cpt.corpora import views

        view = held_out.view if held_out and held_out.view else spec.view
        return read_json(views(spec.builder, spec.source) / f"{view}.jsonl")
    if spec.is_local:
        return (row for file in spec.existing_files() for row in read_file(file, spec.format))
    return _hub(spec, held_out.split if held_out and held_out.split else spec.split)


def _hub(spec: DataSpec, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        yield from load_dataset(
            str(spec.path), spec.name, revision=spec.revision, split=split, streaming=spec.streaming
        )
    except (OSError, ValueError) as error:  # no network, no such data set, no such split
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"data {spec.label}: cannot be read from the hub: {first}") from error
