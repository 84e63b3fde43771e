"""One stage from its parent's checkpoint to its own: load, recall, mix, adapt, train, merge, keep, save.

Each part leaves a trace in `<id>.partial`, and an interrupted stage continues behind the last one:
`trainer/checkpoint-N` (training), `trained/` (before the merge), `checkpoint/` (before publishing).
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cpt import checkpoint
from cpt.store import publish
from cpt.world import SPREADING, World, current
from stages.alone import alone
from stages.base import Job
from stages.ending import leave, merge
from stages.hygiene import MakeItems
from stages.interruption import check_topology, is_trained, remove_leftovers
from stages.log import StageLog, log_file
from stages.memory import peaks
from stages.training import train_apart, trained
from stages.under_way import UnderWay
from stages.watch import Look


def run(
    job: Job,
    say: Callable[[str], None],
    check_accelerator: Callable[[Any], None] = lambda accelerator: None,
    probe_items: MakeItems = None,
    make_look: Callable[[int], Look | None] = lambda num_steps: None,
) -> tuple[Any, Any] | None:
    """Train one stage and publish its folder, or continue where it was interrupted.

    Args:
        job: what to do.
        say: told what happens.
        check_accelerator: refuses processes other than those that were asked for.
        probe_items: what the chain's probes ask, for the stage's hygiene; read once, if at all.
        make_look: number of steps -> what measures the suite that the stage is looked at with.

    Returns: the model and the tokenizer, as they were saved; None where weights were spread, since no process
    but the main one has seen the whole model, and it need not fit on a device.
    """
    world = replace(current(), spreads=job.backend in SPREADING)
    if world.is_main:
        job.partial.mkdir(parents=True, exist_ok=True)
        check_topology(job.partial, job, world)
    world.barrier()
    file = log_file(job.partial, world.rank)
    with StageLog(file, say, job.verbose, world.rank) as log:
        clock = None
        if not world.spreads or not is_trained(job.partial, world):
            stage = UnderWay(job, world, log, probe_items)
            if stage.is_apart:
                # Merged and saved as one whole model, as if the stage had been interrupted here.
                clock = train_apart(stage, check_accelerator, make_look)
                del stage
                gc.collect()
        if world.spreads:
            memory = peaks(world)  # of every rank

            def end(main: World) -> None:
                stage = UnderWay(job, main, log, probe_items)
                stage.clock = clock or stage.clock
                _end(stage, check_accelerator, make_look, world, memory)

            alone(world, job.partial, end)
            return None
        if clock is not None:
            stage = UnderWay(job, world, log, probe_items)
            stage.clock = clock
        _end(stage, check_accelerator, make_look, world)
        return stage.model, stage.tokenizer


def _end(
    stage: UnderWay,
    check_accelerator: Callable[[Any], None],
    make_look: Callable[[int], Look | None],
    world: World,
    memory: Mapping[str, float] | None = None,
) -> None:
    """From the weights behind the last step, trained now or before, to the finished folder.

    Args:
        stage: with the processes that do it.
        world: those that trained it.
        memory: their peaks until here, where they are others.
    """
    # One answer for all: the main process may be ahead, and publishing renames the folder.
    if stage.world.agree((stage.partial / "checkpoint").is_dir()):
        stage.model = checkpoint.load_model(str(stage.partial / "checkpoint"), **stage.job.load)
        stage.place()
    else:
        merge(stage, trained(stage, check_accelerator, make_look))
    _publish(stage, world, memory)


def _publish(stage: UnderWay, world: World, memory: Mapping[str, float] | None) -> None:
    """Describe it, unless that was done before an interruption, and give it its name."""
    stage.world.barrier()
    own = peaks(stage.world)  # of every rank
    memory = {place: max(peak, (memory or {}).get(place, 0.0)) for place, peak in own.items()}
    if stage.world.is_main and not (stage.partial / "manifest.json").is_file():
        leave(stage, world, memory)
    for note in stage.data.notes:
        stage.log.say(f"{stage.job.name}: note: {note}")
    if stage.world.is_main:
        remove_leftovers(stage.partial)
        publish(stage.partial, stage.job.output)
    stage.world.barrier()
