"""One stage in one process group; the target of `accelerate launch -m launch.stage`.

    accelerate launch --config_file configs/accelerate/ddp.yaml -m launch.stage \
        recipes/smoke/sft.yaml parent=runs/stages/base-0c1f77aa output=out/sft

After the stage file: parent=<folder or hub id> and output=<folder>; also reference=, seed=, name=, suite=,
dtype=, and overrides of the stage such as train.learning_rate=3e-6.
"""

import gc
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cpt import ids, manifest, overrides, past, plan
from cpt import recipe as recipes
from cpt.conflicts import check_hooks
from cpt.errors import PlanError, ProbeError, RecipeError
from cpt.hooks import table
from cpt.model_source import ModelSpec, materialise
from cpt.settings import did_you_mean
from cpt.store import Store, locked
from launch.backend import assert_topology, backend
from launch.console import Console, guarded, silenced
from stages import kind_of
from stages.base import Job
from stages.trl_args import batch_layout
from stages.trl_fields import check_train

OWN = (
    "parent",
    "output",
    "reference",
    "reward",
    "teacher",
    "seed",
    "name",
    "suite",
    "dtype",
    "attention",
)


def execute(job: Job, console: Console) -> None:
    """Make a stage if it is not there, and measure its suite if that is missing.

    A second process that makes the same stage waits at its lock and then finds it done.
    """
    from cpt.world import current

    world = current()
    with _lock(job, console) if world.is_main else nullcontext():
        world.barrier()
        done = (job.output / "manifest.json").is_file()
        live = None
        if not done:
            from stages.run import run

            chosen = backend(job.backend)
            live = run(
                job,
                console.say,
                partial(assert_topology, chosen=chosen, num_processes=job.num_processes),
            )
        if job.suite is not None:
            measure(job, console, live)
    del live
    gc.collect()


def make_base(spec: ModelSpec, store: Store, console: Console) -> None:
    """Put the base model into the store: convert it, or link to where it is."""
    from datetime import UTC, datetime

    from cpt.checkpoint import digests, load_tokenizer
    from cpt.manifest import Manifest
    from stages.opening import tokenizer_digest
    from stages.publish import code, packages

    stage_id = spec.id()
    with store.lock(stage_id, console.say):
        if store.is_done(stage_id):
            return
        console.say(f"base: preparing {spec.label}")
        unfinished = store.partial(stage_id)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with silenced(not console.verbose):  # gguf draws bars of its own
            folder = materialise(spec, unfinished / "checkpoint")
        tokenizer = load_tokenizer(str(folder), spec.trust_remote_code)
        Manifest(
            id=stage_id,
            kind="base",
            name="base",
            inputs=spec.content(),
            packages=packages(),
            code=code(),
            checks={"tokenizer": tokenizer_digest(tokenizer)},
            files=digests(folder),
            finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ).write(unfinished)
        store.publish(stage_id)


def measure(job: Job, console: Console, live: tuple[Any, Any] | None) -> None:
    """Measure the job's suite on its checkpoint, unless its result is there."""
    from cpt import checkpoint
    from cpt.world import current
    from eval.probe import probe_model, result_path, write_result
    from eval.suite import load_suite

    assert job.suite is not None
    suite = load_suite(job.suite)
    if job.suite_hash and suite.hash != job.suite_hash:
        raise ProbeError(
            f"{job.suite}: the suite changed while the chain runs; run the same command again, and "
            f"every checkpoint is measured with the new one"
        )
    if result_path(job.output, suite).is_file():
        return
    world = current()
    if live is None:
        folder = str(job.output / "checkpoint")
        load = dict(job.load)
        live = (
            checkpoint.load_model(folder, **load),
            checkpoint.load_tokenizer(folder, load.get("trust_remote_code", False)),
        )
    model, tokenizer = live
    if world.accelerator is not None and str(world.accelerator.device) != "cpu":
        model.to(world.accelerator.device)
    result = probe_model(
        model,
        tokenizer,
        suite,
        cache=Store(job.store).cache if job.store else ids.cache_dir(),
        stage_id=job.id,
        accelerator=_accelerator() if world.size > 1 else None,
        progress=console.progress(f"{job.name}: "),
        verbose=job.verbose,
    )
    if world.is_main:
        write_result(job.output, result)
    world.barrier()


def _accelerator() -> Any:
    from accelerate import Accelerator

    return Accelerator()


def _lock(job: Job, console: Console) -> AbstractContextManager[None]:
    """The store's lock of the stage; of a stage by hand, a file beside its output."""
    if job.store:
        return Store(job.store).lock(job.id, console.say)
    output = job.output
    return locked(output.with_name(f".{output.name}.lock"), output.name, console.say)


def job_to_json(job: Job) -> str:
    """A job as one JSON text, for a worker in another process."""
    tree: dict[str, Any] = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    tree["spec"] = job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    tree["file"] = job.spec.file
    return json.dumps(
        {key: str(value) if isinstance(value, Path) else value for key, value in tree.items()}
    )


def job_from_json(text: str) -> Job:
    """The inverse of `job_to_json`."""
    tree = json.loads(text)
    tree["spec"] = recipes.check_stage(tree["spec"], tree.pop("file"))
    tree["trackers"] = tuple(tree["trackers"])
    for name in ("output", "suite", "store"):
        tree[name] = Path(tree[name]) if tree[name] is not None else None
    return Job(**tree)


def job_by_hand(arguments: Sequence[str]) -> Job:
    """A job from a stage file and `key=value` arguments.

    Raises:
        RecipeError: a missing or unknown argument, or a wrong stage.
    """
    file = Path(arguments[0])
    given: dict[str, Any] = {}
    tree = recipes.read_stage(file)
    for text in arguments[1:]:
        parts, value = overrides.split(text)
        if len(parts) == 1 and parts[0] in OWN:
            given[parts[0]] = value
        else:
            known = [*OWN, *recipes.keys(recipes.StageSpec)]
            if parts[0] not in known:
                raise RecipeError(
                    f"{text}: a stage has no {parts[0]!r}{did_you_mean(parts[0], known)}"
                )
            value = recipes.expand_change(parts, value, text)
            overrides.apply(tree, parts, value, text, known)
    for name in ("parent", "output"):
        if name not in given:
            raise RecipeError(f"{file}: {name} is missing; write {name}=<folder>")
    spec = recipes.check_stage(tree, str(file))
    kind = kind_of(spec.kind, str(file))
    spec = spec.model_copy(update={"train": check_train(kind.config, spec.train, str(file))})
    kind.check(spec, str(file))
    hooks = [table.build(hook.name, dict(hook.settings), str(file)) for hook in spec.hooks]
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = backend(_backend_by_hand(size))
    if chosen.unfinished:
        raise PlanError(f"launch: {chosen.name}: {chosen.unfinished}; use zero2 or ddp")
    check_hooks(hooks, spec, kind, chosen, str(file), [])
    batch_layout(int(spec.train["batch_size"]), size, spec.micro_batch)
    parent = str(given["parent"])
    if Path(parent).is_dir():
        before = past.of_folder(Path(parent).absolute())
        parent = str(Path(parent).absolute())
    else:
        if parent.startswith((".", "/", "~")):
            raise RecipeError(f"parent={parent}: no such folder")
        before = past.of_checkpoint(parent)
    parents = {"parent": before[-1].id}
    roles: dict[str, str] = {}
    for role in ("reference", "reward", "teacher"):
        if role in given:
            folder = Path(str(given[role]))
            roles[role] = str(folder.absolute()) if folder.is_dir() else str(given[role])
            parents[role] = (
                past.of_checkpoint(roles[role])[-1].id
                if not folder.is_dir()
                else past.of_folder(folder)[-1].id
            )
    for role, named in spec.roles().items():
        if role not in roles and named != "previous":
            stage = _earlier(before, named, f"{file}: {role}")
            roles[role], parents[role] = str(stage.folder or stage.checkpoint), stage.id
    if (
        "reference" in kind.roles
        and "reference" not in roles
        and (kind.name != "grpo" or spec.train.get("beta"))
    ):
        parents["reference"] = parents["parent"]
        roles["reference"] = parent
    seed = int(given.get("seed", spec.seed if spec.seed is not None else 17))
    inputs = plan.stage_inputs(
        spec, kind, parents, hooks, seed, {stage.name: stage.id for stage in before}
    )
    output = Path(str(given["output"])).absolute()
    _check_output(output, plan.stage_id(inputs))
    load = {"dtype": given.get("dtype", "float32"), "attention": given.get("attention")}
    return Job(
        name=str(given.get("name", file.stem)),
        id=plan.stage_id(inputs),
        spec=spec,
        seed=seed,
        parent=parent,
        roles=roles,
        output=output,
        inputs=inputs,
        parents=parents,
        backend=chosen.name,
        num_processes=size,
        checkpoint_every=None,
        load=load,
        suite=Path(str(given["suite"])) if "suite" in given else None,
    )


def _backend_by_hand(size: int) -> str:
    """Which backend `accelerate launch` was given."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2"
    return "single" if size == 1 else "ddp"


def _earlier(before: past.Past, name: str, where: str) -> past.PastStage:
    """The stage of a name in the parent's past; a chain's own stages are known there."""
    found = [stage for stage in before if stage.name == name]
    if not found:
        raise RecipeError(
            f"{where}: {name!r} is not in the parent's past, which is "
            f"{', '.join(stage.name for stage in before)}; write {where.rpartition(' ')[2]}=<folder>"
        )
    return found[-1]


def _check_output(output: Path, stage_id: str) -> None:
    """Refuse to write over what is not this very stage."""
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / "manifest.json").is_file():
        raise RecipeError(f"output={output}: holds other files; name a new folder")
    there = manifest.read(output).id
    if there != stage_id:
        raise RecipeError(
            f"output={output}: holds {there}, and this stage is {stage_id}; name a new folder"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; see the module's docstring."""
    from launch.quiet import hush

    given = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "-v" in given
    given = [argument for argument in given if argument != "-v"]
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    hush(verbose)

    def work() -> int:
        job = (
            job_from_json(Path(given[1]).read_text()) if given[0] == "--job" else job_by_hand(given)
        )
        execute(replace(job, verbose=verbose or job.verbose), Console())
        return 0

    return guarded(work, verbose)


if __name__ == "__main__":
    sys.exit(main())
