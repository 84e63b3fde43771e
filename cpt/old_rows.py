"""Old rows: exemplars of earlier stages, or a part of a data set; which they are, and in tokens.

A sample for a hook, a stage and a seed. Rows that are used beside the stream are looked at by the stage's
hygiene here; those within it where the stream is made.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from cpt import manifest
from cpt.data import Reader, Rows, open_rows, refuse_beyond
from cpt.data_spec import MAX_BAD, DataSpec
from cpt.errors import DataError, HookError
from cpt.past import Past, PastStage
from cpt.rehearsal import Example
from cpt.replay.buffers import Reservoir, quotas
from cpt.rows import RICHEST, Row, RowFormat

if TYPE_CHECKING:
    from cpt.hooks.context import StageContext

#: What importance is measured on: the same rows for every hook that measures it.
MEASURE = "measure"


def named(of: str | Sequence[str] | None) -> tuple[str, ...]:
    """What `recalls` says of a setting `of`."""
    if of is None:
        return ()
    return (of,) if isinstance(of, str) else tuple(of)


def rows_left(past: Past, of: str | Sequence[str], name: str) -> dict[PastStage, list[Row]]:
    """The stages that `of` names, each once, and all rows that each left.

    `all` are the stages that left rows of their own: a merge whose exemplars are copies of those of stages
    that are there too would count these twice. A stage that is named must have left some.

    Args:
        past: the stages before.
        of: as a person wrote it.
        name: of the hook.

    Raises:
        HookError: no such stage, or one without rows.
    """
    stages = past.select(of)
    left = {stage: rows for stage in stages if (rows := stage.rows())}
    without = [stage.name for stage in stages if stage not in left]
    if without and not (of == "all" and left):
        raise HookError(
            f"{name}: {without[0]} left no rows (the base model has none); name another stage, or a data set "
            f"where the hook takes one ({name}: {{source: <data config>}})"
        )
    if of != "all":
        return left
    there = {stage.id for stage in left}
    return {stage: rows for stage, rows in left.items() if not _are_copies(stage, there)}


def _are_copies(stage: PastStage, there: set[str]) -> bool:
    """Whether a stage merged models, and each of them that left rows is there."""
    if stage.kind not in ("merge", "rollback", "repair") or stage.folder is None:
        return False
    entry = manifest.read(stage.folder)
    if entry.inputs.get("stands_for", {}).get("kind", entry.kind) != "merge":
        return False  # what a gate made of a stage that trained
    merged = {
        parent
        for role, parent in entry.parents.items()
        if role == "parent" or role.startswith("parent.")
    }
    bare = {ancestor.id for ancestor in entry.past if ancestor.kind == "base"}
    return merged - bare <= there


def rows_of_stages(
    past: Past, of: str | Sequence[str], size: int | None, name: str, ctx: "StageContext"
) -> list[tuple[PastStage, list[Row]]]:
    """`size` exemplars in all, the same number of each stage where they have as many; drawn uniformly.

    A stage's rows are the first of an order that depends on the seed, the hook and the stage alone: with
    fewer of them, those that stay are the same.

    Args:
        past, of, name: as in `rows_left`.
        size: the first stages have one more where it does not divide; None: all rows.
        ctx: of the stage.

    Raises:
        HookError: a stage left no rows, or there are more stages than rows.
    """
    left = rows_left(past, of, name)
    sizes = [None] * len(left) if size is None else quotas(size, len(left))
    return [
        (stage, _drawn(stage, rows, number, name, name, ctx))
        for (stage, rows), number in zip(left.items(), sizes, strict=True)
    ]


def _drawn(
    stage: PastStage,
    rows: list[Row],
    size: int | None,
    purpose: str,
    name: str,
    ctx: "StageContext",
) -> list[Row]:
    if size is not None and size < len(rows):
        order = list(range(len(rows)))
        random.Random(f"{ctx.seed}/old rows/{purpose}/{stage.id}").shuffle(order)
        rows = [rows[place] for place in sorted(order[:size])]
    return list(cleaned(rows, f"{name} of {stage.name}", ctx))


def cleaned(rows: Sequence[Row], name: str, ctx: "StageContext") -> Sequence[Row]:
    """What the stage's hygiene leaves of rows that are used beside the stream."""
    return ctx.clean(name, rows) if ctx.clean is not None and rows else rows


def open_source(
    spec: DataSpec, formats: tuple[RowFormat, ...], size: int | None, seed: str
) -> Rows | Reader:
    """The rows of a data set, or `size` of them: drawn uniformly, or the first ones of an endless stream.

    Raises:
        DataError: missing or empty data, rows of no format, too many bad rows.
    """
    opened = open_rows(spec, formats)
    if size is None:
        return opened
    numbered: Reservoir[tuple[int, Row]] = Reservoir(size, seed)
    pairs: Iterable[tuple[int, Row]] = (
        opened if isinstance(opened, Reader) else zip(opened.numbers, opened.rows, strict=True)
    )
    for pair in islice(pairs, size) if spec.streaming and spec.limit is None else pairs:
        numbered.add(pair)
    if isinstance(opened, Reader):
        opened.check()
    assert opened.format is not None, "a good row has a format"
    kept = sorted(numbered.items, key=lambda pair: pair[0])
    return Rows(
        spec,
        [row for _, row in kept],
        opened.format,
        opened.num_bad,
        opened.examples_of_bad,
        [number for number, _ in kept],
    )


def rows_of_source(
    spec: DataSpec, size: int, name: str, ctx: "StageContext", purpose: str | None = None
) -> list[Row]:
    """At most `size` rows of a data set, of any format, as `open_source` draws them.

    Raises:
        DataError: as there.
    """
    opened = open_source(spec, RICHEST, size, f"{ctx.seed}/old rows/{purpose or name}/{spec.label}")
    assert isinstance(opened, Rows)
    return list(cleaned(opened.rows, f"{name} of {spec.label}", ctx))


def num_labels(example: Example) -> int:
    """Tokens that are labels: what makes a row one that can be learnt from."""
    return example.num_labels


def encoded(
    rows: Sequence[Row],
    name: str,
    ctx: "StageContext",
    counts: Callable[[Example], int] = num_labels,
    max_bad: float = MAX_BAD,
) -> tuple[list[int], list[Example]]:
    """Rows in tokens, and which rows they are: those that have anything that counts.

    Args:
        rows: of any format.
        name: for errors.
        ctx: of the stage.
        counts: how much of an example does.
        max_bad: share of rows that the chat template may refuse.

    Raises:
        DataError: it refuses more of them.
    """
    assert ctx.encode is not None
    try:
        made = list(ctx.encode(rows))
    except DataError:  # of one of them; below it is known of which
        made = []
    found = list(enumerate(made))
    if len(made) != len(rows):
        found, reasons = [], []
        for place, row in enumerate(rows):
            try:
                found += [(place, example) for example in ctx.encode([row])[:1]]
            except DataError as error:
                reasons.append(str(error))
        refuse_beyond(max_bad, len(reasons), len(rows), reasons[:3], name)
    found = [(place, example) for place, example in found if counts(example)]
    return [place for place, _ in found], [example for _, example in found]


@dataclass
class OldExamples:
    """What each of several stages is measured on, in tokens: its own exemplars, or one data set for all."""

    by_stage: dict[str, list[Row]] = field(default_factory=dict)
    name: str = ""
    needs_labels: bool = True

    def find(
        self,
        name: str,
        stages: Sequence[PastStage],
        source: DataSpec | None,
        samples: int,
        ctx: "StageContext",
        needs_labels: bool = True,
    ) -> None:
        """Draw `samples` rows of each stage, or of the data set; the same ones for whichever hook.

        Args:
            name: of the hook.
            stages: a merge among them is measured on the rows that it has of others.
            needs_labels: rows without an answer, such as prompts, do not do.

        Raises:
            HookError: a stage left no rows.
        """
        self.name, self.needs_labels = name, needs_labels
        if source is not None:
            general = rows_of_source(source, samples, name, ctx, MEASURE)
            self.by_stage = {stage.id: general for stage in stages}
            return
        for stage in stages:
            ((_, rows),) = rows_left(Past((stage,)), stage.name, name).items()
            self.by_stage[stage.id] = _drawn(stage, rows, samples, MEASURE, name, ctx)

    def of(self, stage: PastStage, ctx: "StageContext") -> list[Example]:
        """One stage's examples that have anything to predict.

        Raises:
            HookError: none has.
        """
        counts = num_labels if self.needs_labels else _num_predictions
        rows, name = self.by_stage[stage.id], f"{self.name} of {stage.name}"
        _, found = encoded(rows, name, ctx, counts)
        if not found:
            raise HookError(
                f"{self.name}: the rows of {stage.name} have no answers (prompts alone); name a data set: "
                f"{self.name}: {{source: <data config>}}, or other stages"
            )
        return found


def _num_predictions(example: Example) -> int:
    return example.num_predictions
