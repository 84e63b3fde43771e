"""A stage behind its last step: merged and saved, then described, so that it is whole but for its name."""

from collections.abc import Mapping
from typing import Any

from cpt import checkpoint, past
from cpt.world import World
from stages.candidates import kept, remove_unfinished
from stages.checks import eos_note, eos_rate
from stages.notes import read_checks
from stages.publish import describe, save_checkpoint, write_lines
from stages.quantised_start import check_reload, told
from stages.seen import ended
from stages.under_way import UnderWay
from stages.watch import COST


def merge(stage: UnderWay, trained: Any) -> None:
    """Averages, adapters, interpolation; then `checkpoint/`, and `adapter/` beside it."""
    config = checkpoint.load_config(stage.start, bool(stage.job.load.get("trust_remote_code")))
    stage.model = stage.hooks.merge(trained)
    # What trainers change for their own sake is no property of the checkpoint.
    stage.model.config.use_cache = getattr(config, "use_cache", True)
    stage.model.config._name_or_path = config._name_or_path
    stage.clock.lap("merge")
    if stage.world.is_main:
        # Before `checkpoint/`, behind which an interrupted stage no longer has its hooks' state.
        stage.hooks.keep(stage.partial / "memory")
        save_checkpoint(stage.partial, stage.model, stage.tokenizer)
        if stage.hooks.quantisation() is not None:
            check_reload(stage)
    stage.world.barrier()
    stage.clock.lap("save")


def leave(stage: UnderWay, world: World, memory: Mapping[str, float]) -> None:
    """Exemplars and, last, the manifest.

    Args:
        stage: with its model merged.
        world: the processes that trained it.
        memory: peaks, by `stages.memory`.
    """
    partial = stage.partial
    if stage.kind.checks_eos:
        after = eos_rate(stage.model, stage.tokenizer, stage.samples)
        stage.note_check("eos_rate_after", after)
        note = eos_note(read_checks(partial).get("eos_rate_before", 0.0), after)
        stage.data.notes.extend([note] if note else [])
    checks = read_checks(partial)
    stage.data.notes.extend(told(checks, stage.hooks.quantisation()))
    if (stopped := checks.get("stopped_at")) is not None:
        most = stage.job.spec.exemplars
        stage.data = ended(stage.data, partial / "data", stopped, most)
    if cost := checks.get(COST):
        stage.data.notes.append(cost)
    write_lines(partial / past.EXEMPLARS, stage.data.exemplars)
    remove_unfinished(partial)
    if steps := list(kept(partial)):
        stage.note_check("candidates", steps)
    checkpoint.sync(partial)  # what the manifest vouches for
    stage.clock.lap("save")
    describe(
        stage.job,
        stage.kind,
        stage.before,
        stage.data,
        stage.hooks,
        world,
        stage.clock.seconds,
        read_checks(partial),
        memory,
    ).write(partial)
