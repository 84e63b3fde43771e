"""A stage's rows: read, rehearsed, tokenised, mixed into one stream, once for all processes."""

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.data import Reader, Rows, load_rows, open_rows
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.errors import DataError
from cpt.hooks.context import Mixture
from cpt.hooks.stack import HookStack
from cpt.joint import Joined
from cpt.recipe import StageSpec
from cpt.replay.schedule import Schedule
from cpt.stream import Source
from cpt.world import World
from stages import kind_of
from stages.accounting import check, describe_sources, refuse_bad
from stages.base import Job, StageKind
from stages.hygiene import Hygiene, MakeItems
from stages.joint import joint_supply
from stages.mixing import is_enough, write_held_out, write_train
from stages.seen import counts, exemplars, first_places, write_ends
from stages.supply import HELD_OUT, REST, TRAIN, Supply, open_supply, supply_once
from stages.tokenise import Tokenised, tokenise

#: Raised by hand when the same settings would give other rows; what lies in a `.partial` is made again.
VERSION = 3


def stage_supply(
    job: Job,
    kind: StageKind,
    hooks: HookStack,
    tokenizer: Any,
    world: World,
    say: Callable[[str], None],
    probe_items: MakeItems = None,
) -> Supply:
    """The stage's stream: made by the main process, once; opened by all, and again by a resumed stage."""
    # The id leaves out what does not change the weights; here it changes held-out rows, or refuses.
    specs = [job.spec, *(each.spec for each in job.joined)]
    data = [entry.model_dump(mode="json") for spec in specs for entry in spec.data]
    hygiene = [spec.hygiene.model_dump(mode="json") for spec in specs]
    left = [spec.exemplars for spec in specs]
    key = ids.short_hash([VERSION, job.id, data, hygiene, job.suite_hash, left], 16)

    def tell(line: str) -> None:
        say(f"{job.name}: {line}")

    def make_one(stage: Joined, folder: Path) -> Supply:
        other = kind_of(stage.spec.kind, stage.name)
        # In joint training no stage has hooks.
        return supply(other, stage.spec, stage.seed, hooks, tokenizer, folder, tell, probe_items)

    def make(folder: Path) -> None:
        if job.joined:
            rows_per_step = kind.rows_per_step(job.spec)
            joint_supply(job.joined, job.seed, rows_per_step, job.spec.exemplars, make_one, folder)
        else:
            supply(kind, job.spec, job.seed, hooks, tokenizer, folder, tell, probe_items)

    return supply_once(job.partial / "data", key, world, make)


def supply(
    kind: StageKind,
    spec: StageSpec,
    seed: int,
    hooks: HookStack,
    tokenizer: Any,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    probe_items: MakeItems = None,
) -> Supply:
    """Make the stage's stream, in `folder`.

    Its order, its shares and its number of steps depend on the data, the recipe and the seed alone, not on
    the number of processes. A last step that new data do not fill is filled from their next cycle. Rows that
    hygiene leaves out are gone before shares are computed.

    Raises:
        DataError: no data, bad data, or nothing left after tokenising.
    """
    fresh = [open_rows(data, kind.data_formats or kind.formats) for data in spec.data]
    new = [rows.rows if isinstance(rows, Rows) else rows for rows in fresh]
    specs = [rows.spec for rows in fresh]
    mixture = hooks.mix(Mixture(list(zip(specs, new, strict=True))))
    unit, share_of_old, in_batches = _replayed(mixture)
    hygiene = Hygiene(spec.hygiene, probe_items)
    weights = sum(data.weight for data in specs)
    names = _unique([data.label for data in specs] + [old.name for old in mixture.old])
    shares = [data.weight / weights * (1 - share_of_old) for data in specs]
    shares += [old.share for old in mixture.old]
    schedules = [*(None for _ in specs), *(old.schedule for old in mixture.old)]
    most = _highest_shares(shares, schedules, len(fresh))
    given = [rows for _, rows in mixture.fresh] + [
        old.rows.rows if isinstance(old.rows, Rows) else old.rows for old in mixture.old
    ]
    # What was left out of the data sets; rows that an earlier stage left were none of them bad.
    read = [*fresh, *(None if isinstance(old.rows, list) else old.rows for old in mixture.old)]
    with ExitStack() as opened:
        parts, looks = [], []
        for number, all_rows in enumerate(given):
            source = read[number]
            look = hygiene.of(names[number], number < len(fresh))
            numbers = source.numbers if isinstance(source, Rows) else ()
            rows, numbers = look.filtered(all_rows, numbers)
            looks.append(look)
            part = tokenise(
                kind,
                spec,
                tokenizer,
                names[number],
                rows,
                folder,
                say,
                numbers,
                is_enough(kind, spec, most[number], unit),
            )
            opened.enter_context(closing(part))
            look.check()
            is_new = number < len(fresh)
            max_bad = MAX_BAD if is_new else mixture.old[number - len(fresh)].max_bad
            num_rows = rows.num_good if isinstance(rows, Reader) else len(rows)
            check(part, source, num_rows, is_new, max_bad)
            parts.append(part)
        sources = [
            Source(
                part.name,
                part.num_tokens if unit == "tokens" else [1] * len(part),
                share,
                fresh=number < len(fresh),
                # By place: what a source is called, or where it lies, is no part of the stage's id.
                key=f"new {number}" if number < len(fresh) else f"old {number - len(fresh)}",
                schedule=schedules[number],
            )
            for number, (part, share) in enumerate(zip(parts, shares, strict=True))
        ]
        mixed, ends = write_train(folder / TRAIN, kind, spec, seed, sources, parts, in_batches)
        held_out = [
            opened.enter_context(closing(_held_out(kind, spec, data, tokenizer, folder, say)))
            for data in spec.data
            if data.validation
        ]
        write_held_out(folder / HELD_OUT, kind, spec, held_out)
        places = first_places(len(fresh), parts, mixed)
        kept = exemplars(places, parts, mixed, seed, spec.exemplars)
        stops = spec.watch.stops(len(ends)) if spec.watch else []
        counted = counts(mixed, parts, unit, ends, [*stops, len(ends)])
        if stops:
            write_ends(folder, counted, ends, places, parts, mixed, seed, spec.exemplars)
    description, notes = describe_sources(parts, read, counted[len(ends)], unit, looks, len(fresh))
    notes += mixture.notes
    notes += [
        f"{part.name}: left out {part.num_refused} bad rows: {part.examples[0]}"
        for part in held_out
        if part.num_refused
    ]
    rest = {
        "num_steps": len(ends),
        "exemplars": kept,
        "description": description,
        "notes": notes,
    }
    # Exemplars are whole rows: columns that nobody trains on may hold dates, bytes, half characters.
    (folder / REST).write_text(json.dumps(rest, default=str))
    return open_supply(folder)


def _replayed(mixture: Mixture) -> tuple[str, float, bool]:
    """What replay shares count, their sum, and whether each batch has them."""
    share_of_old = sum(old.share for old in mixture.old)
    most = sum(old.share if old.schedule is None else old.schedule.highest for old in mixture.old)
    if most >= 1:
        raise DataError(f"replay shares sum to {most:g}; they must leave something for new data")
    units = {old.unit for old in mixture.old} or {"tokens"}
    if len(units) > 1:
        raise DataError("replay entries of one stage count in one unit: tokens or samples")
    if len({old.in_batches for old in mixture.old}) > 1:
        raise DataError("replay entries of one stage have one mode: stream or batch")
    return units.pop(), share_of_old, any(old.in_batches for old in mixture.old)


def _highest_shares(
    shares: list[float], schedules: list[Schedule | None], num_new: int
) -> list[float]:
    """Of each source the most that it may come to have of the stream."""
    least = sum(
        share if schedule is None else min(schedule.start, schedule.end)
        for share, schedule in zip(shares[num_new:], schedules[num_new:], strict=True)
    )
    whole = sum(shares[:num_new])
    return [
        share / whole * (1 - least)
        if number < num_new
        else (share if schedule is None else schedule.highest)
        for number, (share, schedule) in enumerate(zip(shares, schedules, strict=True))
    ]


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


def _held_out(
    kind: StageKind,
    spec: StageSpec,
    data: DataSpec,
    tokenizer: Any,
    folder: Path,
    say: Callable[[str], None],
) -> Tokenised:
    rows = load_rows(data, kind.data_formats or kind.formats, "validation")
    name = f"{data.label} (held out)"
    part = tokenise(kind, spec, tokenizer, name, rows.rows, folder, say, rows.numbers)
    refuse_bad(part, rows, len(rows.rows))
    return part
