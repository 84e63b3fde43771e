"""A stage's start in 4 bits: opened, and measured against the weights that the recipe names."""

from collections.abc import Callable, Sequence
from typing import Any

from cpt import checkpoint
from cpt.errors import EdgeError
from cpt.memory import where_it_fits
from cpt.outputs import Outputs, outputs
from cpt.quantised import Quantisation
from cpt.rehearsal import Example
from cpt.rows import Row
from cpt.world import World
from stages.base import Job
from stages.notes import read_checks
from stages.opening import open_model

#: Rows on which models are compared.
NUM_ROWS = 16
#: In `checks`: KL(declared || quantised), in nats per token of sample rows.
CHECK = "quantisation_kl"


def open_start(
    job: Job,
    tokenizer: Any,
    start: str,
    quantisation: Quantisation | None,
    samples: Callable[[], list[list[int]]],
    world: World,
    say: Callable[[str], None],
) -> tuple[Any, float | None]:
    """(the stage's first weights, KL of what they were before they were held in 4 bits to them).

    The KL is measured once, by the main process; None where it has been, or where nothing is quantised.
    """
    if quantisation is None or not world.is_main or CHECK in read_checks(job.partial):
        return open_model(job, tokenizer, start, quantisation), None
    before = _before(job, tokenizer, start, samples(), world, say)
    model = open_model(job, tokenizer, start, quantisation)
    kl = before.kl(outputs(model.to(world.device), samples()))
    say(f"{job.name}: weights in 4 bits ({quantisation.kind}): KL {kl:.3g} to those of {start}")
    return model, kl


def _before(
    job: Job,
    tokenizer: Any,
    start: str,
    rows: Sequence[list[int]],
    world: World,
    say: Callable[[str], None],
) -> Outputs:
    model = open_model(job, tokenizer, start)
    with where_it_fits(model, world, say):
        return outputs(model, rows)


def sample_rows(
    encode: Callable[[Sequence[Row]], list[Example]], rows: Sequence[Row]
) -> list[list[int]]:
    """Tokens of the first rows.

    Raises:
        EdgeError: there are none.
    """
    found = [example.input_ids for example in encode(rows[:NUM_ROWS]) if example.input_ids]
    if not found:
        raise EdgeError(
            "quantise: no row of the stage has a token, so that models cannot be compared"
        )
    return found


def check_reload(stage: Any) -> None:
    """The folder that was saved opens as the merged model, and not in 4 bits.

    Raises:
        EdgeError: it says something else.
    """
    rows = stage.hooks.ctx.samples()
    again = checkpoint.load_model(str(stage.partial / "checkpoint"), **stage.job.load)
    kl = outputs(stage.model, rows).kl(outputs(again.to(stage.model.device), rows))
    if not abs(kl) <= 1e-6:
        raise EdgeError(
            f"{stage.job.name}: the checkpoint that was saved is not the merged model: KL {kl:.3g} between "
            f"the two; report this with the stage's log"
        )


def told(checks: dict[str, Any], quantisation: Quantisation | None) -> list[str]:
    """What a person should know of a stage that trained on 4-bit weights."""
    if quantisation is None:
        return []
    return [
        f"quantise: trained on {quantisation.kind} weights, at a KL of {checks[CHECK]:.2g} nats per token to "
        f"those that it starts from; where the adapter turned off is a reference, it is the 4-bit weights",
        f"quantise: merged into the 4-bit weights, at a KL of {checks['merge_kl']:.2g} to what was trained "
        f"(into those before: {checks['naive_merge_kl']:.2g})",
    ]
