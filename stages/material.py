"""A stage's rows: read, rehearsed, tokenised, mixed into one stream, once for all processes."""

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.data import load_rows
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.errors import DataError
from cpt.hooks.base import Mixture
from cpt.hooks.stack import HookStack
from cpt.recipe import StageSpec
from cpt.stream import Source
from cpt.world import World
from stages.accounting import check, describe_sources, refuse_bad
from stages.base import Job, StageKind
from stages.mixing import exemplars, write_held_out, write_train
from stages.supply import HELD_OUT, REST, TRAIN, Supply, open_supply, supply_once
from stages.tokenise import Tokenised, tokenise

#: Raised by hand when the same settings would give other rows; what lies in a `.partial` is made again.
VERSION = 1


def stage_supply(
    job: Job,
    kind: StageKind,
    hooks: HookStack,
    tokenizer: Any,
    world: World,
    say: Callable[[str], None],
) -> Supply:
    """The stage's stream: made by the main process, once; opened by all, and again by a resumed stage."""
    # The id leaves out what does not change the weights; here it changes held-out rows, or refuses.
    data = [entry.model_dump(mode="json") for entry in job.spec.data]
    key = ids.short_hash([VERSION, job.id, data], 16)

    def make(folder: Path) -> None:
        supply(
            kind,
            job.spec,
            job.seed,
            hooks,
            tokenizer,
            folder,
            lambda line: say(f"{job.name}: {line}"),
        )

    return supply_once(job.partial / "data", key, world, make)


def supply(
    kind: StageKind,
    spec: StageSpec,
    seed: int,
    hooks: HookStack,
    tokenizer: Any,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Supply:
    """Make the stage's stream, in `folder` or in one that goes with the process.

    Its order, its shares and its number of steps depend on the data, the recipe and the seed alone, not on
    the number of processes. A last step that new data do not fill is filled from their next cycle.

    Raises:
        DataError: no data, bad data, or nothing left after tokenising.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as alone:  # what is mapped stays until it is let go
            return supply(kind, spec, seed, hooks, tokenizer, Path(alone), say)
    budget = hooks.ctx.most_characters
    fresh = [load_rows(data, kind.formats, most_characters=budget) for data in spec.data]
    mixture = hooks.mix(Mixture([(rows.spec, rows.rows) for rows in fresh]))
    unit, share_of_old = _replayed(mixture)
    weights = sum(rows.spec.weight for rows in fresh)
    names = _unique([rows.spec.label for rows in fresh] + [old.name for old in mixture.old])
    shares = [rows.spec.weight / weights * (1 - share_of_old) for rows in fresh]
    shares += [old.share for old in mixture.old]
    new_rows = [rows for _, rows in mixture.fresh]
    with ExitStack() as opened:
        parts = []
        for number, rows in enumerate([*new_rows, *(old.rows for old in mixture.old)]):
            read = fresh[number] if number < len(fresh) else None
            part = tokenise(
                kind,
                spec,
                tokenizer,
                names[number],
                rows,
                folder,
                say,
                read.numbers if read else (),
            )
            opened.enter_context(closing(part))
            old = mixture.old[number - len(fresh)] if read is None else None
            check(part, read, len(rows), old.max_bad if old else MAX_BAD)
            parts.append(part)
        sources = [
            Source(
                part.name,
                part.num_tokens if unit == "tokens" else [1] * len(part),
                share,
                fresh=number < len(fresh),
                # By place: what a source is called, or where it lies, is no part of the stage's id.
                key=f"new {number}" if number < len(fresh) else f"old {number - len(fresh)}",
            )
            for number, (part, share) in enumerate(zip(parts, shares, strict=True))
        ]
        mixed, num_steps = write_train(folder / TRAIN, kind, spec, seed, sources, parts)
        held_out = [
            opened.enter_context(closing(_held_out(kind, spec, data, tokenizer, folder, say)))
            for data in spec.data
            if data.validation
        ]
        write_held_out(folder / HELD_OUT, kind, spec, held_out)
    description, notes = describe_sources(parts, fresh, mixed, unit)
    notes += [
        f"{part.name}: left out {part.num_refused} bad rows: {part.examples[0]}"
        for part in held_out
        if part.num_refused
    ]
    rest = {
        "num_steps": num_steps,
        "exemplars": exemplars(new_rows, parts, mixed, seed),
        "description": description,
        "notes": notes,
    }
    (folder / REST).write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")
    return open_supply(folder)


def _replayed(mixture: Mixture) -> tuple[str, float]:
    """What replay shares count, and their sum."""
    share_of_old = sum(old.share for old in mixture.old)
    if share_of_old >= 1:
        raise DataError(
            f"replay shares sum to {share_of_old:g}; they must leave something for new data"
        )
    units = {old.unit for old in mixture.old} or {"tokens"}
    if len(units) > 1:
        raise DataError("replay entries of one stage count in one unit: tokens or samples")
    return units.pop(), share_of_old


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
    rows = load_rows(data, kind.formats, "validation")
    name = f"{data.label} (held out)"
    part = tokenise(kind, spec, tokenizer, name, rows.rows, folder, say, rows.numbers)
    refuse_bad(part, rows, len(rows.rows))
    return part
