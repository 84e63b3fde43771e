"""A stage while it trains: from its loaded model to the weights behind its last step."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt import checkpoint
from cpt.generators import untouched_generators
from cpt.memory import where_it_fits
from stages.base import Material
from stages.beats import give_signs
from stages.candidates import candidate_steps, keep_candidates
from stages.checks import check_reference, eos_rate
from stages.drift import drift_of
from stages.interruption import (
    continue_counts,
    load_trained,
    newest_checkpoint,
    save_spread,
    save_trained,
)
from stages.labels_only import labels_only
from stages.metrics import is_measured, record_metrics
from stages.notes import Clock, read_checks
from stages.opening import checkpoint_of, reference_loader
from stages.optimizers import forget_overrides
from stages.progress import replace_bars
from stages.reporting import reporting
from stages.step_end import settle_each_step
from stages.stopping import heeding
from stages.trainer_config import trainer_config
from stages.under_way import UnderWay
from stages.watch import Look, watch

CheckAccelerator = Callable[[Any], None]
MakeLook = Callable[[int], Look | None]


def trained(stage: UnderWay, check_accelerator: CheckAccelerator, make_look: MakeLook) -> Any:
    """The model after its last step: trained now, or before the interruption."""
    from transformers import set_seed

    job, folder = stage.job, stage.partial / "trained"
    resume = newest_checkpoint(
        stage.partial, stage.world, lambda text: stage.log.say(f"{job.name}: {text}")
    )
    looking = 0.0
    set_seed(job.seed)
    model = stage.hooks.adapt(stage.model)
    model.eval()  # as it was loaded: what an adapter adds comes with its dropout on
    if stage.kind.checks_eos and resume is None and not folder.is_dir() and stage.world.is_main:
        with untouched_generators():
            stage.note_check("eos_rate_before", eos_rate(model, stage.tokenizer, stage.samples))
    if folder.is_dir():
        load_trained(folder, model, stage.hooks)
    else:
        with untouched_generators(), where_it_fits(model, stage.world, stage.log.say):
            stage.hooks.measure(model)
        stage.forget_items()
        stage.hooks.ctx.reference = reference_loader(model, stage.before, stage.start, job)
        with labels_only(), reporting(job, stage.world.is_main):
            model, looking = _train(stage, model, resume, check_accelerator, make_look)
        if (stage.hooks.at("merge") or stage.is_apart) and stage.world.is_main:
            if not stage.is_apart:
                save_trained(folder, model, stage.hooks)
            checkpoint.sync(stage.partial)  # metrics.jsonl, which could be made again until now
            shutil.rmtree(stage.partial / "trainer", ignore_errors=True)
    stage.clock.lap("train")
    stage.clock.move(looking, "train", "look")
    return model


def train_apart(stage: UnderWay, check_accelerator: CheckAccelerator, make_look: MakeLook) -> Clock:
    """Train where weights, gradients or optimizer states are spread, and leave whole weights in `trained/`.

    Returns: what it took.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    trained(stage, check_accelerator, make_look)
    unset_hf_deepspeed_config()  # else every model that is loaded would be spread, too
    return stage.clock


def _train(
    stage: UnderWay,
    model: Any,
    resume: str | None,
    check_accelerator: CheckAccelerator,
    make_look: MakeLook,
) -> tuple[Any, float]:
    """Every optimizer step that is left. Returns: the model, and the seconds that looks took."""
    job, data = stage.job, stage.data
    config = trainer_config(stage.kind, job, data, stage.world)
    named = job.roles.get("reference")
    reference = checkpoint_of(named) if named else stage.first
    forget_overrides()
    trainer = stage.kind.trainer(
        Material(
            model, stage.tokenizer, data.train, data.held_out, config, reference, stage.first, job
        )
    )
    check_accelerator(trainer.accelerator)
    replace_bars(trainer, job.name, stage.log, stage.world.is_main)
    record_metrics(trainer, stage.partial, stage.world.is_main)
    every = job.spec.checkpoint_every or job.checkpoint_every
    steps = candidate_steps(data.num_steps, every, job.candidates)
    keep_candidates(trainer, stage.partial, steps, resume, stage.world.is_main)
    kind = stage.kind
    trainer.num_kept = job.trainer_checkpoints
    trainer.attach(stage.hooks, kind.loss_mask, kind.reduction, kind.sequences_per_row)
    settle_each_step(trainer, stage)
    give_signs(trainer)
    # The Trainer measures the held-out loss before the first step, but not after each interruption.
    trainer.args.eval_on_start = data.held_out is not None and resume is None
    if resume is None:
        _look_before(stage, trainer, reference)
    else:
        step = Path(resume).name.removeprefix("checkpoint-")
        stage.log.say(f"{job.name}: continuing at step {step} of {data.num_steps}")
        continue_counts(trainer, Path(resume))
    watcher = _watch(stage, trainer, make_look)
    with heeding():
        trainer.train(resume_from_checkpoint=resume)
    stopped_at = watcher.stopped_at if watcher is not None else None
    if stopped_at is not None or "stopped_at" in read_checks(stage.partial):
        stage.note_check("stopped_at", stopped_at)  # none where a run that was killed had ended it
    if data.held_out is not None and not is_measured(trainer.state):
        # Interrupted between the last step's checkpoint and the end of its epoch.
        trainer.evaluate()
    if stage.is_apart:
        weights = trainer.trained_weights()
        save_spread(stage.partial / "trained", weights, stage.hooks, stage.world)
    # Without what mixed precision wraps around forward: the result is measured as a reloaded one is.
    finished = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    # Optimizer states, reference models and graphs go before the merge and the probes.
    trainer.optimizer = trainer.lr_scheduler = trainer.ref_model = None
    trainer.accelerator.free_memory()
    forget_overrides()
    return finished, watcher.seconds if watcher is not None else 0.0


def _watch(stage: UnderWay, trainer: Any, make_look: MakeLook) -> Any:
    """What looks at the model while it trains, if anything does."""
    spec = stage.job.spec.watch
    if not spec:
        return None
    rows, ctx = stage.data.exemplars, stage.hooks.ctx
    drift = drift_of(spec, stage.job, stage.kind, stage.before, rows, stage.tokenizer, ctx)
    look = make_look(stage.data.num_steps)
    return watch(
        trainer, spec, drift, look, stage.partial, stage.tokenizer, stage.world, stage.log.say
    )


def _look_before(stage: UnderWay, trainer: Any, reference: str) -> None:
    """Check the reference before the first step."""
    if stage.samples and stage.kind.uses("reference", stage.job.spec):
        where = f"{stage.job.name}: reference"
        is_start = reference == stage.first
        divergence = check_reference(trainer, reference, is_start, stage.samples, where)
        stage.note_check("kl_to_reference_at_start", divergence)
