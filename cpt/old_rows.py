"""Old rows that a hook uses beside the stage's own: exemplars of earlier stages, or a part of a data set.

One sample for a hook, a stage and a seed, looked at by the stage's hygiene like rows of the stream. (Rows of
the stream itself, which may be millions, go through `cpt.replay`.)
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from cpt.data import Reader, load_rows
from cpt.data_spec import DataSpec
from cpt.errors import HookError
from cpt.past import PastStage
from cpt.rehearsal import Example
from cpt.rows import RICHEST, Row

if TYPE_CHECKING:
    from cpt.hooks.base import StageContext


def rows_of_stages(
    stages: Sequence[PastStage], size: int, name: str, ctx: "StageContext", skips: bool = False
) -> list[tuple[PastStage, list[Row]]]:
    """`size` exemplars in all, the same number of each stage where they have as many; drawn uniformly.

    Args:
        stages: which left them; one that is named twice counts once.
        size: the first stages have one more where it does not divide.
        name: of the hook.
        ctx: of the stage.
        skips: leave out stages that left none, as long as one left some.

    Raises:
        HookError: a stage left none, or there are more stages than rows.
    """
    left = {stage: rows for stage in stages if (rows := stage.rows())}
    without = [stage.name for stage in stages if stage not in left]
    if without and not (skips and left):
        raise HookError(
            f"{name}: {without[0]} left no rows (the base model has none); name another stage, or a data set "
            f"where the hook takes one ({name}: {{source: <data config>}})"
        )
    if size < len(left):
        raise HookError(
            f"{name}: size: {size} rows are fewer than the {len(left)} stages that they are of"
        )
    quotas = [size // len(left) + (number < size % len(left)) for number in range(len(left))]
    return [
        (stage, rows_of_stage(stage, quota, name, ctx))
        for stage, quota in zip(left, quotas, strict=True)
    ]


def rows_of_stage(stage: PastStage, size: int | None, name: str, ctx: "StageContext") -> list[Row]:
    """At most `size` exemplars of one stage, drawn uniformly; all, where nothing is said."""
    rows = _some(stage.rows(), size, f"{ctx.seed}/{name}/{stage.name}")
    return _cleaned(rows, f"{name} of {stage.name}", ctx)


def rows_of_source(source: DataSpec, size: int, name: str, ctx: "StageContext") -> list[Row]:
    """At most `size` rows of a data set: drawn uniformly, or the first ones of a streamed one.

    Raises:
        DataError: missing or empty data, rows of no format, too many bad rows.
    """
    if source.streaming:
        reader = Reader(source, RICHEST)
        rows = [row for _, row in islice(reader, size)]
        reader.check()
    else:
        key = f"{ctx.seed}/{name}/{source.label}"
        rows = _some(load_rows(source, RICHEST).rows, size, key)
    return _cleaned(rows, f"{name} of {source.label}", ctx)


def _some(rows: list[Row], size: int | None, seed: str) -> list[Row]:
    if size is None or size >= len(rows):
        return rows
    return [rows[number] for number in sorted(random.Random(seed).sample(range(len(rows)), size))]


def _cleaned(rows: list[Row], name: str, ctx: "StageContext") -> list[Row]:
    return ctx.clean(name, rows) if ctx.clean is not None and rows else rows


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
        """Draw `samples` rows of each stage, or of the data set.

        Args:
            name: of the hook.
            needs_labels: rows without an answer, such as prompts, do not do.

        Raises:
            HookError: a stage left no rows.
        """
        self.name, self.needs_labels = name, needs_labels
        general = rows_of_source(source, samples, name, ctx) if source else []
        for stage in stages:
            found = [(stage, general)] if source else rows_of_stages([stage], samples, name, ctx)
            self.by_stage[stage.id] = found[0][1]

    def of(self, stage: PastStage, ctx: "StageContext") -> list[Example]:
        """One stage's examples that have anything to predict.

        Raises:
            HookError: none has.
        """
        assert ctx.encode is not None
        found = [
            example
            for example in ctx.encode(self.by_stage[stage.id])
            if (example.num_labels if self.needs_labels else example.num_predictions > 0)
        ]
        if not found:
            raise HookError(
                f"{self.name}: the rows of {stage.name} have no answers (prompts alone); name a data set: "
                f"{self.name}: {{source: <data config>}}, or other stages"
            )
        return found
