"""Which rows of a part are rehearsed, where a model or a score says so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cpt import ids
from cpt.data import Reader, Rows
from cpt.errors import HookError
from cpt.old_rows import encoded
from cpt.past import PastStage
from cpt.rehearsal import Example
from cpt.replay import embed, selection
from cpt.replay.pool import Part
from cpt.replay.settings import Select
from cpt.rows import Row

if TYPE_CHECKING:
    from cpt.hooks.context import StageContext

#: An earlier stage -> its model.
Load = Callable[[PastStage], Any]


@dataclass(frozen=True)
class Choice:
    """How rows are chosen.

    Embeddings are those of the stage that left the rows, or of the parent for a data set; losses are those of
    the model that this stage starts from (`methods.md` A37: the current model).

    Attributes:
        select, score: as a person wrote them.
        parent: the stage that this one starts from.
        max_bad: share of rows that the chat template may refuse.
        load: an earlier stage's model.
    """

    select: Select
    score: str | None
    parent: PastStage
    max_bad: float
    load: Load
    ctx: "StageContext"

    def places(self, part: Part) -> tuple[list[int], str]:
        """The places of a part's chosen rows, and how they were chosen, in words.

        Raises:
            HookError: a row without the score, or no row that a model could look at.
        """
        name = f"replay of {part.stage.name}"
        assert part.size is not None, "a selection has a size"
        if self.score is not None:
            found = selection.quality(_scores(part, self.score), part.size)
            return found, f"those with the highest {self.score}"
        places, examples = encoded(part.rows, name, self.ctx, max_bad=self.max_bad)
        if not examples:
            raise HookError(
                f"{name}: no row has a token to predict, and select: {self.select} looks at them; write "
                f"select: uniform"
            )
        by = self.parent if self.select == "difficult" else part.stage
        what = "losses" if self.select == "difficult" else "embeddings"
        values = measured(what, by, examples, self.load, self.ctx).numpy()
        if self.select == "difficult":
            found = selection.difficult(values, part.size)
        elif self.select == "herding":
            found = selection.herding(values, part.size)
        elif self.select == "kcenter":
            found = selection.kcenter(values, part.size)
        else:
            import numpy as np

            assert self.select == "kmeans"
            found = selection.kmeans(values, part.size, np.random.default_rng(self.ctx.seed))
        chosen = [places[place] for place in found]
        return chosen, f"by {self.select} on {what} of {by.name} ({by.id})"


def chosen_of_stages(parts: Sequence[Part], choice: Choice | None) -> tuple[list[Row], list[str]]:
    """The rows of all parts that are rehearsed, and how they were chosen."""
    if choice is None:
        return [row for part in parts for row in part.rows], []
    kept: list[Row] = []
    notes = []
    for part in parts:
        places, how = choice.places(part)
        kept += [part.rows[place] for place in places]
        notes.append(f"replay of {part.stage.name}: {len(places)} of {len(part.rows)} rows, {how}")
    return kept, notes


def chosen_of_source(
    opened: Rows | Reader, size: int | None, choice: Choice | None
) -> tuple[Rows | Reader, list[str]]:
    """The rows of a data set that are rehearsed, and how they were chosen; all, where nothing chooses."""
    if choice is None:
        return opened, []
    assert isinstance(opened, Rows), "a stream is refused where rows are chosen"
    places, how = choice.places(Part(choice.parent, opened.rows, size))
    rows = [opened.rows[place] for place in places]
    numbers = [opened.numbers[place] for place in places]
    note = f"replay of {opened.spec.label}: {len(rows)} of {len(opened.rows)} rows, {how}"
    return replace(opened, rows=rows, numbers=numbers), [note]


def loader(ctx: "StageContext", own: Any = None) -> Load:
    """An earlier stage -> its model.

    Args:
        own: the stage's own model, which has the weights that it starts from, unless it has an adapter on.
    """
    # An adapter that is trained on makes another model of the weights below it.
    is_start = own is not None and not hasattr(own, "peft_config")

    def load(stage: PastStage) -> Any:
        if is_start and stage.checkpoint == ctx.start:
            from cpt.hooks.backbone import bare_model

            return bare_model(own)
        assert ctx.load is not None
        return ctx.load(stage)

    return load


def measured(
    what: str, by: PastStage, examples: Sequence[Example], load: Load, ctx: "StageContext"
) -> Any:
    """`embeddings` [N, H] or `losses` [N] of examples, made once for a model and rows.

    Where the main process of several measures alone, nothing is kept: to keep takes all of them.
    """
    tokens = [[example.input_ids, example.labels] for example in examples]

    def make() -> dict[str, Any]:
        return {what: getattr(embed, what)(load(by), examples)}

    if ctx.cached is None:
        return make()[what]
    key = ["replay", what, embed.VERSION, by.identity, ids.short_hash(tokens, 16)]
    return ctx.cached(key, make)[what]


def _scores(part: Part, score: str) -> Any:
    import numpy as np

    for number, row in enumerate(part.rows, start=1):
        value = row.get(score)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise HookError(
                f"replay of {part.stage.name}: row {number} has no number in the column {score!r}, "
                f"by which select: quality chooses; it has {', '.join(map(repr, row))}"
            )
    return np.array([row[score] for row in part.rows], dtype=np.float64)
