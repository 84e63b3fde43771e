"""Rows that a hook measures or rehearses: of earlier stages, or of a data set."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from cpt.data import Reader, open_rows
from cpt.data_spec import DataSpec
from cpt.errors import HookError
from cpt.hooks.base import StageContext
from cpt.past import PastStage
from cpt.rehearsal import Example
from cpt.rows import Row, RowFormat

#: What a data set for hooks may hold: rows with an answer, or texts.
FORMATS: tuple[RowFormat, ...] = ("preference", "messages", "completion", "text")


@dataclass
class OldExamples:
    """A uniform sample of old rows in tokens, for each of the stages that a hook recalls."""

    by_stage: dict[str, list[Row]] = field(default_factory=dict)
    samples: int = 0
    name: str = ""
    needs_labels: bool = True

    def find(
        self,
        name: str,
        stages: Sequence[PastStage],
        source: DataSpec | None,
        samples: int,
        ctx: StageContext,
        needs_labels: bool = True,
    ) -> None:
        """Draw `samples` rows of each stage, or of the data set for all of them.

        Raises:
            HookError: a stage left no rows.
        """
        self.name, self.samples, self.needs_labels = name, samples, needs_labels
        general = sample_of(source, samples, ctx.seed) if source else []
        for stage in stages:
            rows = general or sampled(stage.rows(), samples, ctx.seed)
            if not rows:
                raise HookError(
                    f"{name}: {stage.name} left no rows; name a data set: {name}: {{source: <data config>}}"
                )
            self.by_stage[stage.id] = rows

    def of(self, stage: PastStage, ctx: StageContext) -> list[Example]:
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


def sampled(rows: Sequence[Row], number: int, seed: int) -> list[Row]:
    """A uniform sample without replacement, in the rows' own order."""
    if len(rows) <= number:
        return list(rows)
    kept = random.Random(f"{seed}/old rows").sample(range(len(rows)), number)
    return [rows[index] for index in sorted(kept)]


def sample_of(source: DataSpec, number: int, seed: int) -> list[Row]:
    """A uniform sample of a data set; of a stream, which has no end, its first rows."""
    found = open_rows(source, FORMATS)
    if isinstance(found, Reader):
        return [row for _, row in islice(found, number)]
    return sampled(found.rows, number, seed)
