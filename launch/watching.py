"""What a stage's looks measure with a suite, and when they end the stage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpt import checkpoint, ids
from cpt.errors import CptError, RecipeError
from cpt.gate_spec import GateSpec
from cpt.ids import atomic_write
from cpt.past import PastStage
from cpt.store import Store
from cpt.watch import WatchSpec
from cpt.world import current
from eval.compare import Change, changes
from eval.gate import LEVEL, movement
from eval.matrix import Row, read_row
from eval.probe import probe_model, result_path
from eval.suite import Suite, load_suite
from launch.console import Console
from stages.base import Job
from stages.opening import past_of
from stages.watch import Look


def suite_of(spec: WatchSpec, where: str) -> Suite | None:
    """The suite that is looked with.

    Raises:
        RecipeError: it is wrong; or the stage is to stop by probes, and there are none.
    """
    if spec.suite is None:
        if spec.stop:
            raise RecipeError(
                f"{where}: watch.stop: ends the stage where a probe has regressed, and no probe is "
                f"looked at; name a suite: watch: {{suite: <file>}}"
            )
        return None
    try:
        return load_suite(Path(spec.suite))
    except CptError as error:
        raise RecipeError(f"{where}: watch.suite: {error}") from None


def watching(spec: WatchSpec, where: str) -> str:
    """Hash of the suite that is looked with, empty without one; for the stage's id."""
    suite = suite_of(spec, where)
    return suite.hash if suite else ""


def looker(job: Job, console: Console, num_steps: int) -> Look | None:
    """What measures the model of a stage while it trains; None where no suite is looked with.

    Every process calls this together. A probe has regressed where the paired test against the base model says
    so at a level that is divided by the number of looks: who looks often must not stop by chance. The main
    process says so.
    """
    watch = job.spec.watch
    suite = suite_of(watch, job.spec.file) if isinstance(watch, WatchSpec) else None
    if suite is None:
        return None
    assert isinstance(watch, WatchSpec)
    margin = GateSpec().margin if watch.margin is None else watch.margin
    num_looks = len(watch.steps(num_steps)) - 1
    base = _base_row(job, suite, console)

    def look(
        model: Any, tokenizer: Any, step: int, folder: Path
    ) -> tuple[Mapping[str, float], str]:
        world = current()
        result = probe_model(
            model,
            tokenizer,
            suite,
            cache=_cache(job),
            stage_id=f"{job.id} step {step}",
            accelerator=_accelerator() if world.size > 1 else None,
            verbose=job.verbose,
        )
        scores = {name: float(cell["value"]) for name, cell in result["probes"].items()}
        if not world.is_main:
            return scores, ""
        file = folder / f"{suite.name}-{suite.hash}" / f"step-{step:06d}.json"
        atomic_write(file, json.dumps(result, ensure_ascii=False, allow_nan=False))
        row = read_row(f"step {step}", job.id, file, suite.hash)
        found = changes(base, row, margin, LEVEL, num_pairs=num_looks)
        return scores, _why([change for change in found if change.verdict == "regressed"], row)

    return look


def _why(regressed: list[Change], row: Row) -> str:
    return "; ".join(movement(change, row.scores[change.probe]) for change in regressed)


def _base_row(job: Job, suite: Suite, console: Console) -> Row:
    """What the base model scores: measured once, and kept beside it where it is a stage of ours."""
    before = past_of(job)
    base = next((stage for stage in before if stage.kind == "base"), before[0])
    file = _kept(base, suite, job)
    if not current().agree(file.is_file()):
        console.say(f"{job.name}: watch: measuring {base.name} with {suite.name}")
        load = dict(job.load)
        model = checkpoint.load_model(base.checkpoint, **load)
        tokenizer = checkpoint.load_tokenizer(
            base.checkpoint, bool(load.get("trust_remote_code", False))
        )
        world = current()
        model.to(world.device)
        result = probe_model(
            model,
            tokenizer,
            suite,
            cache=_cache(job),
            stage_id=base.id,
            accelerator=_accelerator() if world.size > 1 else None,
            progress=console.progress(f"{job.name}: watch: "),
            verbose=job.verbose,
        )
        if world.is_main:
            atomic_write(file, json.dumps(result, ensure_ascii=False, allow_nan=False))
        world.barrier()
    return read_row(base.name, base.id, file, suite.hash)


def _kept(base: PastStage, suite: Suite, job: Job) -> Path:
    """Where the base model's result lies: in its stage folder, or in that of the stage."""
    if base.folder is not None and base.folder.is_dir():
        return result_path(base.folder, suite)
    return job.partial / "watch" / f"{suite.name}-{suite.hash}" / "base.json"


def _cache(job: Job) -> Path:
    return Store(job.store).cache if job.store else ids.cache_dir()


def _accelerator() -> Any:
    from accelerate import Accelerator

    return Accelerator()
