"""The loss on old rows beside the stage's own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cpt.old_rows import encoded
from cpt.past import PastStage
from cpt.rehearsal import Rehearsal, collate, hidden_states
from cpt.replay.choice import Load, measured
from cpt.replay.damage import DamageRehearsal
from cpt.rows import Row, format_of
from cpt.tokens import OutputHead, token_nll

if TYPE_CHECKING:
    from torch import Tensor

    from cpt.hooks.context import StageContext
    from cpt.tokens import Tokens

MANY_EPOCHS = 8


class Term:
    """Mean negative log-likelihood over the label tokens of the old rows of each optimizer step.

    Args:
        rows: all that can be drawn.
        size: old rows of a step, over all micro-batches and ranks.
        name: of the replay, for people.
        max_bad: share of rows that the chat template may refuse.
        prior: whose losses say what is forgotten; None to draw all rows alike.

    Raises:
        HookError: no row has a token to predict.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        size: int,
        name: str,
        max_bad: float,
        prior: PastStage | None,
        load: Load,
        ctx: "StageContext",
    ) -> None:
        _, examples = encoded(rows, name, ctx, max_bad=max_bad)
        self.rehearsal = (
            Rehearsal(examples, size, ctx.seed, name)
            if prior is None or not examples
            else DamageRehearsal(
                examples,
                size,
                ctx.seed,
                name,
                measured("losses", prior, examples, load, ctx).tolist(),
            )
        )
        self.notes = [f"{len(examples)} rows, {size} of them a step"]
        epochs = ctx.num_steps * size / len(examples)
        if epochs > MANY_EPOCHS:
            self.notes.append(f"each row is seen {epochs:.1f} times; it may be learnt by heart")
        if any(format_of(row) == "preference" for row in rows):
            self.notes.append("of pairs the chosen answers are rehearsed")

    def part_of_mean(self, model: Any, tokens: "Tokens", ctx: "StageContext") -> "Tensor | None":
        """This micro-batch's part of the step's mean, with its graph; None where it has no row of it."""
        device = tokens.weight.device
        batch = self.rehearsal.batch(ctx.step, tokens.part, device)
        is_idle = batch is None
        if batch is None:
            if ctx.world.size == 1:
                return None
            # Sharded weights are gathered by all ranks together: one without rows runs a row that weighs 0.
            batch = collate(self.rehearsal.examples[:1], device, scale=0.0)
        total, nll = token_nll(
            hidden_states(model, batch.forward), OutputHead(model), batch.labels, batch.weight
        )
        if isinstance(self.rehearsal, DamageRehearsal) and not is_idle:
            self.rehearsal.observe(tokens.part, nll, batch.weight)
        return total

    def end_step(self, ctx: "StageContext") -> None:
        """Learn from all ranks which rows are forgotten."""
        if isinstance(self.rehearsal, DamageRehearsal):
            self.rehearsal.end_step(ctx.world, ctx.world.device)

    def state_dict(self) -> "dict[str, Tensor]":
        """What was learnt of the bins; nothing where all rows are drawn alike."""
        import torch

        if not isinstance(self.rehearsal, DamageRehearsal):
            return {}
        state = self.rehearsal.collateral.state_dict()
        return {name: torch.from_numpy(value) for name, value in state.items()}

    def load_state_dict(self, state: "Mapping[str, Tensor]") -> None:
        """Take back what `state_dict` gave."""
        if isinstance(self.rehearsal, DamageRehearsal):
            self.rehearsal.collateral.load_state_dict(
                {name: value.cpu().numpy() for name, value in state.items()}
            )
