"""What a stage's looks measure with a suite, and when they end the stage."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt.errors import CptError, RecipeError
from cpt.gate_spec import GateSpec
from cpt.ids import atomic_write, short_hash
from cpt.past import PastStage
from cpt.watch import WatchSpec
from cpt.world import current
from eval.change import Change
from eval.compare import changes
from eval.gate import LEVEL, VERSION, margins_of, movement, with_margins
from eval.known import is_current
from eval.matrix import Row, read_row
from eval.probe import probe_model, result_path
from eval.split import only
from eval.suite import Suite, load_suite
from eval.template import declared_by, declared_in
from launch.console import Console
from launch.in_memory import accelerator_of, cache_of, load
from stages.base import Job
from stages.opening import past_of
from stages.watch import Look


def suite_of(spec: WatchSpec, where: str) -> Suite | None:
    """The suite that is looked with.

    Raises:
        RecipeError: it is wrong, or loads finished checkpoints only; or the stage is to stop by probes, and
            there are none.
    """
    if spec.suite is None:
        if spec.stop:
            raise RecipeError(
                f"{where}: watch.stop: ends the stage where a probe has regressed, and no probe is "
                f"looked at; name a suite: watch: {{suite: <file>}}"
            )
        return None
    try:
        suite = load_suite(Path(spec.suite))
    except CptError as error:
        raise RecipeError(f"{where}: watch.suite: {error}") from None
    if suite.backend != "hf":
        raise RecipeError(
            f"{where}: watch.suite: {spec.suite} has backend: {suite.backend}, which loads finished "
            f"checkpoints; what looks at a model that trains needs backend: hf"
        )
    return suite


def watching(spec: WatchSpec, where: str, gate: GateSpec | None = None) -> str:
    """Hash of the suite that is looked with and of what ends the stage; empty without one.

    Raises:
        RecipeError: a file that is not there, or what `suite_of` refuses.
    """
    if spec.text is not None:
        try:
            spec.text.content()
        except CptError as error:
            raise RecipeError(f"{where}: watch.text: {error}") from None
    suite = suite_of(spec, where)
    if suite is None:
        return ""
    return short_hash([suite.hash, _margins(suite, spec, gate), LEVEL, VERSION])


def _margins(suite: Suite, spec: WatchSpec, gate: GateSpec | None) -> dict[str, float]:
    """The margin of every probe: of `watch`, else of the gate for that probe, else of the suite, the gate."""
    rules = gate or GateSpec()
    own = {name: rule.margin for name, rule in rules.probes.items() if rule.margin is not None}
    found = margins_of(suite.probes.values(), rules.margin, own)
    if spec.margin is None:
        return found
    # A probe of which neither direction is better is in units of its own.
    return {
        name: margin if suite.probes[name].direction == "none" else spec.margin
        for name, margin in found.items()
    }


def looker(job: Job, console: Console, num_steps: int) -> Look | None:
    """What measures the model of a stage while it trains; None where no suite is looked with.

    Every process calls this together. A stage must end where a probe has regressed against the base model
    and against the model that the stage began with, since it is not to blame for what it inherited. Both are
    paired tests at a level that is divided by the number of looks: who looks often must not stop by
    chance. A suite with dev items is looked at with these: what ends a training must not score it. The main
    process says so.
    """
    watch = job.spec.watch
    suite = suite_of(watch, job.spec.file) if isinstance(watch, WatchSpec) else None
    if suite is None:
        return None
    assert isinstance(watch, WatchSpec)
    margins = _margins(suite, watch, job.gate)
    num_looks = len(watch.steps(num_steps)) - 1
    bases: dict[str, Row] = {}
    templates = declared_in(stage.folder for stage in past_of(job) if stage.folder)
    templates |= declared_by([job.spec.model.content() if job.spec.model else None])

    def read(name: str, file: Path) -> Row:
        row = replace(read_row(name, job.id, file, suite.hash), templates=templates)
        return with_margins(only(row, "dev"), margins)

    def look(
        model: Any, tokenizer: Any, step: int, folder: Path
    ) -> tuple[Mapping[str, float], str]:
        world, dtype = current(), str(model.dtype).removeprefix("torch.")
        if dtype not in bases:  # as the trainer holds the model: DeepSpeed casts it
            file = _base_file(job, suite, dtype, console)
            bases[dtype] = read("base", file)
        result = probe_model(
            model,
            tokenizer,
            suite,
            cache=cache_of(job),
            stage_id=f"{job.id} step {step}",
            accelerator=accelerator_of(world),
            verbose=job.verbose,
        )
        scores = {name: float(cell["value"]) for name, cell in result["probes"].items()}
        if not world.is_main:
            return scores, ""
        results = folder / f"{suite.name}-{suite.hash}"
        file = results / f"step-{step:06d}.json"
        atomic_write(file, json.dumps(result, ensure_ascii=False, allow_nan=False))
        row, first = read(f"step {step}", file), results / f"step-{0:06d}.json"
        rows = [bases[dtype], *([read("step 0", first)] if step and first.is_file() else [])]
        found = [changes(before, row, 0.0, LEVEL, num_pairs=num_looks) for before in rows]
        fallen = [{c.probe for c in each if c.verdict == "regressed"} for each in found]
        blamed = set.intersection(*fallen) if step else set()
        return scores, _why([change for change in found[-1] if change.probe in blamed], row)

    return look


def _why(regressed: list[Change], row: Row) -> str:
    return "; ".join(movement(change, row.scores[change.probe]) for change in regressed)


def _base_file(job: Job, suite: Suite, dtype: str, console: Console) -> Path:
    """The base model's result: measured once for a number type, and kept beside it where it is a stage."""
    before = past_of(job)
    base = next((stage for stage in before if stage.kind == "base"), before[0])
    file = _kept(base, suite, job, dtype)
    if not current().agree(is_current(file, suite)):
        console.say(f"{job.name}: watch: measuring {base.name} with {suite.name}")
        model, tokenizer = load(base.checkpoint, {**job.load, "dtype": dtype})
        world = current()
        model.to(world.device)
        result = probe_model(
            model,
            tokenizer,
            suite,
            cache=cache_of(job),
            stage_id=base.id,
            accelerator=accelerator_of(world),
            progress=console.progress(f"{job.name}: watch: "),
            verbose=job.verbose,
        )
        if world.is_main:
            atomic_write(file, json.dumps(result, ensure_ascii=False, allow_nan=False))
        world.barrier()
    return file


def _kept(base: PastStage, suite: Suite, job: Job, dtype: str) -> Path:
    """Where the base model's result lies: in its stage folder as it was made, or in that of the stage."""
    own = dtype == job.load.get("dtype", "float32")
    if own and base.folder is not None and base.folder.is_dir():
        file = result_path(base.folder, suite)
        if current().agree(not file.is_file() or is_current(file, suite)):
            return file  # else it is the chain's, and made with other packages than the looks
    return job.partial / "watch" / f"{suite.name}-{suite.hash}" / f"base-{dtype}.json"
