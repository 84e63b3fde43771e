"""One stage in one process group; the target of `accelerate launch -m launch.stage`.

    accelerate launch --config_file configs/accelerate/ddp.yaml -m launch.stage \
        recipes/smoke/sft.yaml parent=runs/stages/base-0c1f77aa output=out/sft

After the stage file: parent=<folder or hub id> and output=<folder>; also reference=, seed=, name=, suite=,
dtype= (else the parent's), deterministic=true, and overrides of the stage such as train.learning_rate=3e-6.
"""

import gc
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cpt.determinism import deterministic, set_variables
from cpt.errors import ProbeError
from cpt.locks import locked
from cpt.memory import keep_freed_memory
from cpt.replay.hygiene import ProbeItems
from cpt.store import Store
from eval.suite import Suite, load_suite
from launch.backend import backend
from launch.by_hand import job_by_hand
from launch.console import Console, guarded
from launch.group import work_in_group
from launch.in_memory import accelerator_of, cache_of, opened
from launch.job_file import job_from_json
from launch.topology import assert_topology
from launch.untrained import make_merge
from launch.watching import looker
from stages.base import Job


def execute(job: Job, console: Console, is_held: bool = False) -> None:
    """Make a stage if it is not there, and measure its suite if that is missing.

    A second process that makes the same stage waits at its lock and then finds it done.

    Args:
        job: the stage.
        console: told what happens.
        is_held: the lock is held already, by the chain that started this process group.
    """
    from cpt.world import current

    world = current()
    if str(world.device) == "cpu":
        keep_freed_memory()
    lock = nullcontext() if is_held or not world.is_main else _lock(job, console)
    with lock, deterministic(job.deterministic, job.name):
        world.barrier()
        done = (job.output / "manifest.json").is_file()
        live = None
        if not done and job.spec.merge is not None:
            make_merge(job, console)
        elif not done:
            from stages.run import run

            chosen = backend(job.backend)
            live = run(
                job,
                console.say,
                partial(assert_topology, chosen=chosen, num_processes=job.num_processes),
                partial(probe_items, job) if job.suite is not None else None,
                partial(looker, job, console),
            )
        if job.suite is not None:
            measure(job, console, live)
    del live
    gc.collect()


def probe_items(job: Job) -> ProbeItems:
    """What the job's suite asks, for the hygiene of its data."""
    from eval.contents import item_texts

    return ProbeItems(item_texts(_suite(job), cache_of(job)))


def _suite(job: Job) -> Suite:
    """The job's suite.

    Raises:
        ProbeError: it is no longer what it was when the chain was planned.
    """
    assert job.suite is not None
    suite = load_suite(job.suite)
    if job.suite_hash and suite.hash != job.suite_hash:
        raise ProbeError(
            f"{job.suite}: the suite changed while the chain runs; run the same command again, and "
            f"every checkpoint is measured with the new one"
        )
    return suite


def measure(job: Job, console: Console, live: tuple[Any, Any] | None) -> None:
    """Measure the job's suite on its checkpoint: what of it no earlier result of the stage has.

    The base model is measured twice, and whole, if the job says so.
    """
    from cpt import checkpoint
    from cpt.world import current
    from eval.known import is_complete, known_results
    from eval.noise import firsts, second_of
    from eval.probe import probe_model, result_path, write_result

    suite, world = _suite(job), current()
    first = result_path(job.output, suite)
    is_second = job.twice is True and first.is_file() and not second_of(first).is_file()
    if first.is_file() and not is_second:
        return
    if suite.backend != "hf":
        if not job.suite_hash:  # started by hand: there is no chain that does it
            console.say(
                f"{job.name}: not measured; run: cpt probe {job.output} --suite {job.suite}"
            )
        return  # by the chain, when this process has left the GPU: `launch.probing.probe_apart`
    if live and str(live[0].dtype).removeprefix("torch.") != job.load.get("dtype", "float32"):
        live = None  # DeepSpeed casts the model that it trains; the checkpoint is what is measured
    twice = job.twice or (job.twice is None and str(world.device) != "cpu")
    rounds = [True] if is_second else [False, True] if twice else [False]
    known = known_results(firsts(job.output.glob("probes/*.json")), suite)
    if rounds == [False] and is_complete(known, suite):
        live = (None, None)
    elif live is None:
        checkpoint.verify_stage(job.output)  # a number of damaged weights would be kept for good
        live = opened(job.output / "checkpoint", job.load, world)
    model, tokenizer = live
    # Where nothing is left to measure there is no model; what is spread lies on the devices already.
    device = str(world.device)
    if model is not None and device != "cpu" and next(model.parameters()).device.type == "cpu":
        model.to(world.device)
    for is_second in rounds:
        result = probe_model(
            model,
            tokenizer,
            suite,
            cache=cache_of(job),
            stage_id=job.id,
            accelerator=accelerator_of(world),
            progress=console.progress(f"{job.name}{', again' if is_second else ''}: "),
            verbose=job.verbose,
            known={} if is_second else known,
        )
        if world.is_main:
            write_result(job.output, result, is_second)
        world.barrier()


def _lock(job: Job, console: Console) -> AbstractContextManager[Any]:
    """The store's lock of the stage; of a stage by hand, a file beside its output."""
    if job.store:
        return Store(job.store).lock(job.id, console.say)
    output = job.output
    return locked(output.with_name(f".{output.name}.lock"), output.name, console.say)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; see the module's docstring."""
    from launch.quiet import hush, hush_bars

    given = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "-v" in given
    given = [argument for argument in given if argument != "-v"]
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    hush(verbose)

    in_chain = given[0] == "--job"

    def work() -> int:
        from cpt.world import leave

        job = job_from_json(Path(given[1]).read_text()) if in_chain else job_by_hand(given)
        if job.deterministic:
            set_variables()
        hush_bars(verbose)
        execute(replace(job, verbose=verbose or job.verbose), Console(), is_held=in_chain)
        leave()
        return 0

    return work_in_group(work, Path(given[1]), verbose) if in_chain else guarded(work, verbose)


if __name__ == "__main__":
    sys.exit(main())
