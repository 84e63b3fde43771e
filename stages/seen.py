"""What a stage has trained on: its whole stream, or what came before the step at which a look ended it.

A row of the stream belongs to the same optimizer step on any number of processes, so what was seen is
counted, not estimated. Where looks may end a stage, two files beside its table say it for each of them:
`ends.json`, what each source had given, and `seen.jsonl`, the rows that are exemplars of some beginning of
the stream.
"""

import heapq
import json
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cpt.rows import Row
from cpt.stream import Stream
from stages.supply import Supply
from stages.tokenise import Tokenised

ENDS, SEEN = "ends.json", "seen.jsonl"


@dataclass(frozen=True)
class Ends:
    """Where in the stream each optimizer step ends.

    Attributes:
        places: rows that were drawn until then, the one that is cut there among them.
        cut: tokens of that row which are not trained on by then.
    """

    places: "array[int]" = field(default_factory=lambda: array("q"))
    cut: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.places)

    def add(self, place: int, cut: int = 0) -> None:
        """The next step's."""
        self.places.append(place)
        self.cut.append(cut)


def counts(
    mixed: Stream, parts: Sequence[Tokenised], unit: str, ends: Ends, steps: Iterable[int]
) -> dict[int, list[dict[str, Any]]]:
    """After each of `steps`, what each source had given.

    `share` of the stream, in `unit`; `epochs`; `seen_rows`, different ones; `seen_tokens`, each as often as
    it was trained on.
    """
    drawn, tokens = [0] * len(parts), [0] * len(parts)
    found: dict[int, list[dict[str, Any]]] = {}
    order, place, source = mixed.order, 0, 0
    for step in sorted(steps):
        for source, row in islice(order, ends.places[step - 1] - place):
            drawn[source] += 1
            tokens[source] += parts[source].num_tokens[row]
        place = ends.places[step - 1]
        given = tokens if unit == "tokens" else drawn
        total = sum(given)
        found[step] = [
            {
                "share": round(given[n] / total if total else 0.0, 6),
                "epochs": round(drawn[n] / len(part) if drawn[n] else 0.0, 3),
                "seen_rows": min(drawn[n], len(part)),
                "seen_tokens": tokens[n] - (ends.cut[step - 1] if n == source else 0),
            }
            for n, part in enumerate(parts)
        ]
    return found


def first_places(num_new: int, parts: Sequence[Tokenised], mixed: Stream) -> "array[int]":
    """Where in the stream each new row stands for the first time."""
    places, drawn = array("q"), [0] * len(parts)
    for place, source in enumerate(mixed.sources):
        if source < num_new and drawn[source] < len(parts[source]):  # its first cycle
            places.append(place)
        drawn[source] += 1
    return places


def exemplars(
    places: "array[int]", parts: Sequence[Tokenised], mixed: Stream, seed: int, most: int
) -> list[Row]:
    """A uniform sample of the new rows that the stage saw, in the order in which it saw them first.

    Args:
        places: see `first_places`.
        most: rows, at least one.
    """
    chosen: Iterable[int] = places
    if len(places) > most:
        kept = sorted(random.Random(f"{seed}/exemplars").sample(range(len(places)), most))
        chosen = (places[index] for index in kept)
    return [_row(parts, mixed, place) for place in chosen]


def write_ends(
    folder: Path,
    found: dict[int, list[dict[str, Any]]],
    ends: Ends,
    places: "array[int]",
    parts: Sequence[Tokenised],
    mixed: Stream,
    seed: int,
    most: int,
) -> None:
    """Write what a stage would leave if it ended at one of the steps of `found`; see `counts`."""
    (folder / ENDS).write_text(json.dumps(found))
    step = 1
    with (folder / SEEN).open("w", encoding="ascii") as file:
        for index, rank in _candidates(len(places), seed, most):
            while ends.places[step - 1] <= places[index]:
                step += 1
            row = _row(parts, mixed, places[index])
            file.write(json.dumps({"step": step, "rank": rank, "row": row}, default=str) + "\n")


def ended(supply: Supply, folder: Path, step: int, most: int) -> Supply:
    """What a stage that a look ended at `step` has trained on.

    Its exemplars are a uniform sample of the rows until there; where these are no more than `most`, those
    that a stage of so many steps would leave.

    Args:
        supply: of the whole stage.
        folder: where it lies.
    """
    given = json.loads((folder / ENDS).read_text())[str(step)]
    with (folder / SEEN).open(encoding="ascii") as lines:
        seen = [line for line in map(json.loads, lines) if line["step"] <= step]
    kept = {line["rank"] for line in heapq.nsmallest(most, seen, key=lambda line: line["rank"])}
    return replace(
        supply,
        num_steps=step,
        exemplars=[line["row"] for line in seen if line["rank"] in kept],
        description=[
            {**entry, **counted} for entry, counted in zip(supply.description, given, strict=True)
        ],
        notes=[*supply.notes, f"watch ended the stage at step {step} of {supply.num_steps}"],
    )


def _candidates(number: int, seed: int, most: int) -> Iterator[tuple[int, int]]:
    """(row, rank) of the rows that are among the `most` lowest ranks of all rows before and including them.

    Ranks are a random order of which the exemplars of the whole stream come first. Of any first n rows the
    `most` lowest ranks are then a uniform sample, and all of them are yielded: about m (1 + ln(n / m)) rows.

    Source: Vitter 1985, doi:10.1145/3147.3165 (a reservoir, with ranks for its random replacements).
    """
    draw = random.Random(f"{seed}/exemplars")
    first = draw.sample(range(number), min(most, number))
    is_first = bytearray(number)
    for index in first:
        is_first[index] = 1
    rest = array("q", (index for index in range(number) if not is_first[index]))
    draw.shuffle(rest)
    ranks = array("q", bytes(8 * number))
    for rank, index in enumerate((*first, *rest)):
        ranks[index] = rank
    lowest: list[int] = []  # negated: a heap gives the least, and the highest rank has to go
    for index, rank in enumerate(ranks):
        if len(lowest) < most:
            heapq.heappush(lowest, -rank)
        elif rank > -lowest[0]:
            continue
        else:
            heapq.heapreplace(lowest, -rank)
        yield index, rank


def _row(parts: Sequence[Tokenised], mixed: Stream, place: int) -> Row:
    part = parts[mixed.sources[place]]
    return dict(part.source[part.kept[mixed.rows[place]]])
