"""One stage from its parent's checkpoint to its own: load, recall, mix, adapt, train, merge, keep, save.

Each part leaves a trace in `<id>.partial`, and an interrupted stage continues behind the last one:
`trainer/checkpoint-N` (training), `trained/` (before the merge), `checkpoint/` (before publishing).
"""

from collections.abc import Callable
from typing import Any

from cpt import checkpoint
from cpt.store import publish
from cpt.world import current
from stages.base import Job
from stages.ending import leave, merge
from stages.hygiene import MakeItems
from stages.interruption import check_topology, remove_leftovers
from stages.log import StageLog, log_file
from stages.memory import peaks
from stages.training import trained
from stages.under_way import UnderWay
from stages.watch import Look


def run(
    job: Job,
    say: Callable[[str], None],
    check_accelerator: Callable[[Any], None] = lambda accelerator: None,
    probe_items: MakeItems = None,
    make_look: Callable[[int], Look | None] = lambda num_steps: None,
) -> tuple[Any, Any]:
    """Train one stage and publish its folder, or continue where it was interrupted.

    Args:
        job: what to do.
        say: told what happens.
        check_accelerator: refuses processes other than those that were asked for.
        probe_items: what the chain's probes ask, for the stage's hygiene; read once, if at all.
        make_look: number of steps -> what measures the suite that the stage is looked at with.

    Returns: the model and the tokenizer, as they were saved.
    """
    world = current()
    if world.is_main:
        job.partial.mkdir(parents=True, exist_ok=True)
        check_topology(job.partial, job, world)
    world.barrier()
    file = log_file(job.partial, world.rank)
    with StageLog(file, say, job.verbose, world.rank) as log:
        stage = UnderWay(job, world, log, probe_items)
        # One answer for all: the main process may be ahead, and publishing renames the folder.
        if world.agree((job.partial / "checkpoint").is_dir()):
            stage.model = checkpoint.load_model(str(job.partial / "checkpoint"), **job.load)
            stage.model.to(world.device)
        else:
            merge(stage, trained(stage, check_accelerator, make_look))
        _publish(stage)
        return stage.model, stage.tokenizer


def _publish(stage: UnderWay) -> None:
    """Describe it, unless that was done before an interruption, and give it its name."""
    stage.world.barrier()
    memory = peaks(stage.world)  # of every rank
    if stage.world.is_main and not (stage.partial / "manifest.json").is_file():
        leave(stage, memory)
    for note in stage.data.notes:
        stage.log.say(f"{stage.job.name}: note: {note}")
    if stage.world.is_main:
        remove_leftovers(stage.partial)
        publish(stage.partial, stage.job.output)
    stage.world.barrier()
