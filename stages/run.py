"""One stage from its parent's checkpoint to its own: load, recall, mix, adapt, train, merge, keep, save.

Each part leaves a trace in `<id>.partial`, and an interrupted stage continues behind the last one:
`trainer/checkpoint-N` (training), `trained/` (before the merge), `checkpoint/` (before publishing).
"""

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpt import checkpoint, ids, past
from cpt.errors import StoreError
from cpt.hooks import table
from cpt.hooks.base import Hook, StageContext
from cpt.hooks.stack import HookStack
from cpt.past import Past
from cpt.store import Store, complete_checkpoints, replacing
from cpt.world import World, current
from stages import kind_of
from stages.base import Job, Material, StageKind
from stages.checks import check_reference, check_vocabulary, eos_note, eos_rate
from stages.material import Supply, supply
from stages.opening import checkpoint_of, open_tokenizer, reference_loader, start_folder
from stages.publish import describe, floats, history, write_lines
from stages.trl_args import trl_config

NUM_SAMPLES = 8


def run(job: Job, say: Callable[[str], None]) -> tuple[Any, Any]:
    """Train one stage and publish its folder, or continue where it was interrupted.

    Returns: the model and the tokenizer, as they were saved.
    """
    from transformers import set_seed

    kind = kind_of(job.spec.kind, job.spec.file or job.name)
    world = current()
    clock = _Clock()
    partial = job.partial
    if world.is_main:
        partial.mkdir(parents=True, exist_ok=True)
        _check_topology(partial, job, world)
    world.barrier()
    set_seed(job.seed)

    before = (
        past.of_folder(Path(job.parent))
        if Path(job.parent).is_dir()
        else past.of_checkpoint(job.parent)
    )
    start = start_folder(before)
    tokenizer = open_tokenizer(job, before, start)
    ctx = StageContext(job.name, kind.name, kind.formats, job.seed, world, start)
    hooks = HookStack(build_hooks(job), ctx)
    hooks.recall(before)
    say(f"{job.name}: loading {before[-1].id}")
    model = _open_model(job, start, tokenizer)
    with world.main_first():
        data = supply(kind, job.spec, job.seed, hooks, tokenizer)
    samples = kind.prompts(data.exemplars, tokenizer, NUM_SAMPLES)
    clock.lap("load")

    if not (partial / "checkpoint").is_dir():
        model = _trained(
            job, kind, model, tokenizer, before, start, data, samples, hooks, world, clock, say
        )
    else:
        model = checkpoint.load_model(str(partial / "checkpoint"), **job.load)
    checks = _read_json(partial / "checks.json")
    if kind.checks_eos and world.is_main:
        checks["eos_rate_after"] = eos_rate(model, tokenizer, samples)
        note = eos_note(checks.get("eos_rate_before", 0.0), checks["eos_rate_after"])
        data.notes.extend([note] if note else [])
    if world.is_main:
        hooks.keep(partial / "memory")
        write_lines(partial / past.EXEMPLARS, data.exemplars)
        write_lines(partial / "metrics.jsonl", history(partial))
        clock.lap("save")
        describe(job, kind, before, data, hooks, world, clock.seconds, checks).write(partial)
        for leftover in (
            "trainer",
            "trained",
            "job.json",
            "topology.json",
            "checks.json",
            "start.json",
            "log.json",
        ):
            _remove(partial / leftover)
        if job.store:
            Store(job.store).publish(job.id)
        else:
            partial.rename(job.output)
    world.barrier()
    for note in data.notes:
        say(f"{job.name}: note: {note}")
    return model, tokenizer


def _open_model(job: Job, start: str, tokenizer: Any) -> Any:
    from cpt.model_source import apply_change

    model = checkpoint.load_model(start, **job.load)
    if job.spec.model:
        apply_change(model, tokenizer, job.spec.model)
    check_vocabulary(model, tokenizer, f"{job.name}: {start}")
    return model


def _trained(
    job: Job,
    kind: StageKind,
    model: Any,
    tokenizer: Any,
    before: Past,
    start: str,
    data: Supply,
    samples: list[list[int]],
    hooks: HookStack,
    world: World,
    clock: "_Clock",
    say: Callable[[str], None],
) -> Any:
    """Train, merge, and save `checkpoint/`; or load what was trained, and go on from there."""
    from transformers import set_seed

    partial = job.partial
    use_cache, origin = model.config.use_cache, model.config._name_or_path
    trained = partial / "trained"
    resume = _newest(partial, world)
    if kind.checks_eos and resume is None and not trained.is_dir() and world.is_main:
        rate = eos_rate(model, tokenizer, samples)
        ids.atomic_write(partial / "checks.json", json.dumps({"eos_rate_before": rate}))
    set_seed(job.seed)
    model = hooks.adapt(model)
    if trained.is_dir():
        _load_trained(trained, model, hooks)
    else:
        hooks.ctx.reference = reference_loader(model, before, start, job)
        model = _train(job, kind, model, tokenizer, start, data, samples, resume, hooks, world, say)
        if hooks.at("merge") and world.is_main:
            _save_trained(trained, model, hooks)
    clock.lap("train")
    if hasattr(model, "peft_config") and world.is_main:
        with replacing(partial / "adapter") as folder:
            model.save_pretrained(folder, selected_adapters=["default"])
    model = hooks.merge(model)
    model.config.use_cache, model.config._name_or_path = use_cache, origin
    clock.lap("merge")
    if world.is_main:
        with replacing(partial / "checkpoint") as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            checkpoint.sync(folder)
    world.barrier()
    clock.lap("save")
    return model


def _train(
    job: Job,
    kind: StageKind,
    model: Any,
    tokenizer: Any,
    start: str,
    data: Supply,
    samples: list[list[int]],
    resume: str | None,
    hooks: HookStack,
    world: World,
    say: Callable[[str], None],
) -> Any:
    from stages.progress import replace_bars

    partial = job.partial
    reference = checkpoint_of(job.roles["reference"]) if "reference" in job.roles else start
    trainer = kind.trainer(
        Material(
            model,
            tokenizer,
            data.train,
            data.held_out,
            _config(kind, job, data, world),
            reference,
            start,
            job,
        )
    )
    _check_processes(trainer, job)
    replace_bars(trainer, job.name, say, world.is_main)
    trainer.attach(hooks, kind.loss_mask, kind.reduction, kind.sequences_per_row)
    if resume is None and samples and _uses_reference(trainer, kind):
        checks = _read_json(partial / "checks.json")
        where = f"{job.name}: reference"
        checks["kl_to_reference_at_start"] = check_reference(
            trainer, reference, reference == start, samples, where
        )
        if world.is_main:
            ids.atomic_write(partial / "checks.json", json.dumps(checks))
    if data.held_out is not None and resume is None:
        with frozen_random():
            first = trainer.evaluate()
        trainer.state.log_history.clear()
        if world.is_main:
            ids.atomic_write(partial / "start.json", json.dumps({"step": 0, **floats(first)}))
    if resume:
        say(
            f"{job.name}: continuing at step {Path(resume).name.removeprefix('checkpoint-')} of {data.num_steps}"
        )
    trainer.train(resume_from_checkpoint=resume)
    if world.is_main:
        ids.atomic_write(partial / "log.json", json.dumps(trainer.state.log_history))
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Optimizer states, reference models and graphs go before the merge and the probes.
    trainer.optimizer = trainer.lr_scheduler = trainer.ref_model = None
    trainer.accelerator.free_memory()
    gc.collect()
    return model


def _save_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    from safetensors.torch import save_file, save_model

    with replacing(folder) as partial:
        save_model(model, str(partial / "model.safetensors"))
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in hooks.state_dict().items()},
            str(partial / "hooks.safetensors"),
        )


def _load_trained(folder: Path, model: Any, hooks: HookStack) -> None:
    from safetensors.torch import load_file, load_model

    missing, unexpected = load_model(model, str(folder / "model.safetensors"), strict=False)
    odd = [name for name in (*missing, *unexpected) if ".ref." not in name]
    if odd:
        raise StoreError(
            f"{folder}: does not fit the stage's model ({odd[0]}); remove it, and the stage trains again"
        )
    hooks.load_state_dict(load_file(str(folder / "hooks.safetensors")))


def build_hooks(job: Job) -> list[Hook]:
    """The stage's hooks, fresh."""
    return [
        table.build(hook.name, dict(hook.settings), job.spec.file or job.name)
        for hook in job.spec.hooks
    ]


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 2)
        self._last = now


def _config(kind: StageKind, job: Job, data: Supply, world: World) -> Any:
    import torch

    train = {key: value for key, value in job.spec.train.items() if key != "num_train_epochs"}
    train |= {"max_steps": data.num_steps}
    train.setdefault("batch_size", 8)
    config = trl_config(
        kind.config,
        train,
        output_dir=job.partial / "trainer",
        seed=job.seed,
        use_cpu=not torch.cuda.is_available(),
        sharded=job.backend not in ("single", "ddp"),
        world_size=world.size,
        micro_batch=job.spec.micro_batch,
        checkpoint_every=job.spec.checkpoint_every or job.checkpoint_every,
        evaluate=data.held_out is not None,
        trackers=job.trackers,
        run_name=f"{job.name}-{job.id}",
        disable_tqdm=True,
    )
    # The stream is the order: rows are taken as they stand.
    config.train_sampling_strategy = "sequential"
    return config


def _check_processes(trainer: Any, job: Job) -> None:
    actual = trainer.accelerator.num_processes
    if actual != job.num_processes:
        raise StoreError(
            f"{job.name}: asked for {job.num_processes} processes and got {actual}; "
            f"start it through cpt run, or accelerate launch with a config of configs/accelerate"
        )


def _check_topology(partial: Path, job: Job, world: World) -> None:
    """An interrupted stage continues on as many processes as it began with."""
    file = partial / "topology.json"
    own = {"backend": job.backend, "size": world.size}
    if file.is_file() and complete_checkpoints(partial / "trainer"):
        began = json.loads(file.read_text())
        if began != own:
            raise StoreError(
                f"{partial.name}: began on {began['backend']} with {began['size']} processes and would continue on "
                f"{job.backend} with {world.size}; use the same, or --restart to begin this stage anew"
            )
    ids.atomic_write(file, json.dumps(own))


def _newest(partial: Path, world: World) -> str | None:
    """The newest complete trainer checkpoint; those without our mark are removed."""
    if world.is_main:
        complete = {folder for _, folder in complete_checkpoints(partial / "trainer")}
        for folder in (partial / "trainer").glob("checkpoint-*"):
            if folder not in complete:
                shutil.rmtree(folder)
    world.barrier()
    found = complete_checkpoints(partial / "trainer")
    return str(found[-1][1]) if found else None


def _uses_reference(trainer: Any, kind: StageKind) -> bool:
    return "reference" in kind.roles and (kind.name == "dpo" or float(trainer.args.beta) != 0)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


@contextmanager
def frozen_random() -> Iterator[None]:
    """Put every random generator back as it was."""
    import random

    import numpy as np
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
