"""A stage's rows: read, rehearsed, tokenised, mixed into one stream, packed, as the trainer's data set."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpt import stream
from cpt.data import as_dataset, load_rows
from cpt.errors import DataError
from cpt.hooks.base import Mixture
from cpt.hooks.stack import HookStack
from cpt.past import NUM_EXEMPLARS
from cpt.recipe import StageSpec
from cpt.rows import Row
from stages.base import Encoded, StageKind

if TYPE_CHECKING:
    from datasets import Dataset

MANY_EPOCHS = 8


@dataclass(frozen=True)
class Supply:
    """What a stage trains on, and what of it goes into the manifest."""

    train: "Dataset"
    held_out: "Dataset | None"
    num_steps: int
    exemplars: list[Row]
    description: list[dict[str, Any]]
    notes: list[str]


def supply(kind: StageKind, spec: StageSpec, seed: int, hooks: HookStack, tokenizer: Any) -> Supply:
    """Make the stage's stream.

    Its order, its shares and its number of steps depend on the data, the recipe and the seed alone, not on
    the number of processes. A last step that new data do not fill is filled from their next cycle.

    Raises:
        DataError: no data, bad data, or nothing left after tokenising.
    """
    budget = hooks.ctx.most_characters
    fresh = [load_rows(data, kind.formats, most_characters=budget) for data in spec.data]
    mixture = hooks.mix(Mixture([(rows.spec, rows.rows) for rows in fresh]))
    share_of_old = sum(old.share for old in mixture.old)
    if share_of_old >= 1:
        raise DataError(
            f"replay shares sum to {share_of_old:g}; they must leave something for new data"
        )
    units = {old.unit for old in mixture.old} or {"tokens"}
    if len(units) > 1:
        raise DataError("replay entries of one stage count in one unit: tokens or samples")
    (unit,) = units

    weights = sum(rows.spec.weight for rows in fresh)
    names = _unique([rows.spec.label for rows in fresh] + [old.name for old in mixture.old])
    shares = [rows.spec.weight / weights * (1 - share_of_old) for rows in fresh]
    shares += [old.share for old in mixture.old]
    encoded = [kind.encode(rows, tokenizer, spec) for _, rows in mixture.fresh]
    encoded += [kind.encode(old.rows, tokenizer, spec) for old in mixture.old]
    for name, part in zip(names, encoded, strict=True):
        if not part.rows:
            raise DataError(
                f"data {name}: no row is left once tokenised ({part.num_dropped} have no label)"
            )
    for rows, part in zip(fresh, encoded, strict=False):
        total = len(rows.rows) + rows.num_bad
        if part.num_dropped and rows.num_bad + part.num_dropped > rows.spec.max_bad * total:
            raise DataError(
                f"data {rows.spec.label}: {part.num_dropped} of {total} rows have no label once they "
                f"are tokenised and cut to max_length, more than max_bad {rows.spec.max_bad:g} allows"
            )
    sources = [
        stream.Source(
            name,
            part.num_tokens if unit == "tokens" else [1] * len(part.rows),
            share,
            fresh=number < len(fresh),
            # By place: what a source is called, or where it lies, is no part of the stage's id.
            key=f"new {number}" if number < len(fresh) else f"old {number - len(fresh)}",
        )
        for number, (name, part, share) in enumerate(zip(names, encoded, shares, strict=True))
    ]
    mixed, train, num_steps = _train_rows(
        kind, spec, seed, sources, [part.rows for part in encoded]
    )
    description, notes = [], []
    for number, (name, part) in enumerate(zip(names, encoded, strict=True)):
        entry: dict[str, Any] = {
            "name": name,
            "rows": len(part.rows),
            "tokens": sum(part.num_tokens),
            "share": round(mixed.shares[number], 6),
            "unit": unit,
            "epochs": round(mixed.epochs[number], 3),
            "replayed": number >= len(fresh),
            "dropped_rows": part.num_dropped,
        }
        if number < len(fresh):
            entry |= {"bad_rows": fresh[number].num_bad, "content": fresh[number].spec.content()}
            if fresh[number].num_bad:
                example = fresh[number].examples_of_bad[0]
                notes.append(f"{name}: left out {fresh[number].num_bad} bad rows: {example}")
        if part.num_dropped:
            notes.append(
                f"{name}: left out {part.num_dropped} rows without a label after tokenising"
            )
        if mixed.epochs[number] > MANY_EPOCHS:
            times = f"{mixed.epochs[number]:.1f} times"
            notes.append(f"{name}: each row is seen {times}; it may be learnt by heart")
        description.append(entry)
    return Supply(
        train=train,
        held_out=_held_out(kind, spec, tokenizer),
        num_steps=num_steps,
        exemplars=_exemplars([rows for _, rows in mixture.fresh], encoded, mixed, seed),
        description=description,
        notes=notes,
    )


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    counted: dict[str, int] = {}
    result = []
    for name in names:
        counted[name] = counted.get(name, 0) + 1
        result.append(f"{name} ({counted[name]})" if seen[name] > 1 else name)
    return result


def _train_rows(
    kind: StageKind, spec: StageSpec, seed: int, sources: list[stream.Source], rows: list[list[Row]]
) -> tuple[stream.Stream, "Dataset", int]:
    per_step = kind.rows_per_step(spec)
    steps = int(spec.train.get("max_steps", -1))
    epochs = float(spec.train.get("num_train_epochs", 1.0))
    packing = kind.pack(spec)
    if packing is None:
        uses = kind.uses_of_a_row(spec)
        batches = -(-steps // uses)
        wanted: dict[str, Any] = {"rows": batches * per_step} if steps > 0 else {"epochs": epochs}
        mixed = stream.interleave(sources, seed, multiple_of=per_step, **wanted)
        chosen = [rows[source][row] for source, row in mixed.order]
        num_steps = steps if steps > 0 else len(chosen) // per_step * uses
        return mixed, as_dataset(chosen), num_steps
    size, split = packing
    num_rows = len(stream.interleave(sources, seed, epochs=epochs).order) if steps < 1 else per_step
    num_steps = steps
    while True:
        mixed = stream.interleave(sources, seed, rows=num_rows)
        chosen = [rows[source][row] for source, row in mixed.order]
        packed = stream.pack([len(row["input_ids"]) for row in chosen], size, split)
        num_steps = num_steps if num_steps > 0 else -(-len(packed) // per_step)
        # The last row is not full yet, so that one more than is needed is made, and cut off.
        if len(packed) > num_steps * per_step:
            break
        num_rows += max(1, num_rows // 4)
    packed = packed[: num_steps * per_step]
    mixed = stream.interleave(sources, seed, rows=packed[-1][-1][0] + 1)  # what was cut is not seen
    return mixed, _packed(chosen, packed), num_steps


def _packed(chosen: list[Row], packed: list[list[tuple[int, int, int]]]) -> "Dataset":
    return as_dataset(
        [
            {
                "input_ids": [
                    t for n, left, right in row for t in chosen[n]["input_ids"][left:right]
                ],
                "labels": [t for n, left, right in row for t in chosen[n]["labels"][left:right]],
                "seq_lengths": [right - left for _, left, right in row],
            }
            for row in packed
        ]
    )


def _held_out(kind: StageKind, spec: StageSpec, tokenizer: Any) -> "Dataset | None":
    rows: list[Row] = []
    for data in spec.data:
        if data.validation:
            rows += kind.encode(
                load_rows(data, kind.formats, "validation").rows, tokenizer, spec
            ).rows
    if not rows:
        return None
    packing = kind.pack(spec)
    if packing is None:
        return as_dataset(rows)
    size, split = packing
    return _packed(rows, stream.pack([len(row["input_ids"]) for row in rows], size, split))


def _exemplars(
    fresh: list[list[Row]], encoded: list[Encoded], mixed: stream.Stream, seed: int
) -> list[Row]:
    """A uniform sample of the new rows that the stage saw, in the order in which it saw them first."""
    seen = list(dict.fromkeys(pair for pair in mixed.order if pair[0] < len(fresh)))
    if len(seen) > NUM_EXEMPLARS:
        kept = sorted(random.Random(f"{seed}/exemplars").sample(range(len(seen)), NUM_EXEMPLARS))
        seen = [seen[index] for index in kept]
    return [fresh[source][encoded[source].kept[row]] for source, row in seen]
