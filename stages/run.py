"""One stage from its parent's checkpoint to its own: load, recall, mix, adapt, train, merge, keep, save.

Each part leaves a trace in `<id>.partial`, and an interrupted stage continues behind the last one:
`trainer/checkpoint-N` (training), `trained/` (before the merge), `checkpoint/` (before publishing).
"""

import gc
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from cpt import checkpoint, past
from cpt.generators import untouched_generators
from cpt.hooks.stack import HookStack
from cpt.memory import where_it_fits
from cpt.store import publish, replacing
from cpt.world import SPREADING, World, current
from stages import kind_of
from stages.base import Job, Material
from stages.candidates import candidate_steps, keep_candidates, kept, remove_unfinished
from stages.checks import check_reference, eos_note, eos_rate
from stages.context import context
from stages.drift import drift_of
from stages.hygiene import MakeItems, SourceHygiene, clean_rows
from stages.interruption import (
    check_topology,
    continue_counts,
    load_trained,
    newest_checkpoint,
    remove_leftovers,
    save_spread,
    save_trained,
)
from stages.labels_only import labels_only
from stages.log import StageLog
from stages.material import stage_supply
from stages.metrics import is_measured, record_metrics
from stages.notes import Clock, note_check, read_checks
from stages.opening import (
    build_hooks,
    checkpoint_of,
    first_checkpoint,
    num_new_rows,
    open_model,
    open_tokenizer,
    past_of,
    reference_loader,
    start_folder,
)
from stages.progress import replace_bars
from stages.publish import describe, save_checkpoint, write_lines
from stages.shapes import check_shapes
from stages.trainer_config import trainer_config
from stages.watch import Look, watch

NUM_SAMPLES = 16


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
    world = replace(current(), spreads=job.backend in SPREADING)
    if world.is_main:
        job.partial.mkdir(parents=True, exist_ok=True)
        check_topology(job.partial, job, world)
    world.barrier()
    with StageLog(job.partial / "log.txt" if world.is_main else None, say, job.verbose) as log:
        stage = _StageRun(job, world, log, check_accelerator, probe_items, make_look)
        if stage.is_apart():
            # Merged, saved and measured as one whole model, as if the stage had been interrupted here.
            clock = stage.train_apart()
            del stage
            gc.collect()
            stage = _StageRun(job, world, log, check_accelerator, probe_items, make_look)
            stage.clock = clock
        return stage.finished(), stage.tokenizer


class _StageRun:
    """One run of one stage: what it was opened with, and the parts in order."""

    def __init__(
        self,
        job: Job,
        world: World,
        log: StageLog,
        check_accelerator: Callable[[Any], None],
        probe_items: MakeItems,
        make_look: Callable[[int], Look | None],
    ) -> None:
        self.job, self.world, self.log = job, world, log
        self.check_accelerator, self.make_look = check_accelerator, make_look
        self.partial = job.partial
        self.clock = Clock()
        self.looking = 0.0
        self.kind = kind_of(job.spec.kind, job.spec.file or job.name)
        self.before = past_of(job)
        self.start = start_folder(self.before)
        self.tokenizer = open_tokenizer(job, self.before, self.start)
        ctx = context(job, self.kind, self.tokenizer, self.start, world, log.say)
        items = self.probe_items = cache(probe_items) if probe_items is not None else None
        ctx.clean = partial(clean_rows, job.spec.hygiene, items, self._note_look)
        ctx.save_adapter = self._save_adapter
        self.hooks = HookStack(build_hooks(job), ctx)
        self.first = first_checkpoint(self.before, self.start, self.hooks)
        self.hooks.recall(self.before)
        # Before any weights load, and while nothing waits in a collective.
        self.data = stage_supply(job, self.kind, self.hooks, self.tokenizer, world, log.say, items)
        self.hooks.ctx.num_steps = self.data.num_steps
        log.say(f"{job.name}: loading {self.before[-1].id}")
        self.model = open_model(job, self.tokenizer, self.start)
        ctx.new_rows = num_new_rows(job, self.model, self.start)
        check_shapes(self.model, self.hooks, self.before, self.start, job)
        if not (world.spreads and self.is_apart()):
            self.model.to(world.device)
        self.samples = self.kind.prompts(self.data.exemplars, self.tokenizer, NUM_SAMPLES)
        self.clock.lap("load")

    def is_apart(self) -> bool:
        """Whether it trains on a backend that spreads numbers over processes, and has not done so yet."""
        made = [(self.partial / part).is_dir() for part in ("trained", "checkpoint")]
        return self.world.agree(self.job.backend not in ("single", "ddp") and not any(made))

    def train_apart(self) -> Clock:
        """Train, and leave whole weights in `trained/`. Returns: what it took."""
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        self._trained()
        unset_hf_deepspeed_config()  # else every model that is loaded would be spread, too
        return self.clock

    def finished(self) -> Any:
        """Whatever is still to do: train, merge, save, publish."""
        partial, job = self.partial, self.job
        # One answer for all: the main process may be ahead, and publishing renames the folder.
        if self.world.agree((partial / "checkpoint").is_dir()):
            self.model = checkpoint.load_model(str(partial / "checkpoint"), **job.load)
            self.model.to(self.world.device)
        else:
            self._merge(self._trained())
        self.world.barrier()
        if self.world.is_main and not (partial / "manifest.json").is_file():
            self._describe()
        for note in self.data.notes:
            self.log.say(f"{job.name}: note: {note}")
        if self.world.is_main:
            remove_leftovers(partial)
            publish(partial, job.output)
        self.world.barrier()
        return self.model

    def _trained(self) -> Any:
        """The model after its last step: trained now, or before the interruption."""
        from transformers import set_seed

        job, folder = self.job, self.partial / "trained"
        resume = newest_checkpoint(self.partial, self.world)
        set_seed(job.seed)
        model = self.hooks.adapt(self.model)
        model.eval()  # as it was loaded: what an adapter adds comes with its dropout on
        if self.kind.checks_eos and resume is None and not folder.is_dir() and self.world.is_main:
            with untouched_generators():
                self._note_check("eos_rate_before", eos_rate(model, self.tokenizer, self.samples))
        if folder.is_dir():
            load_trained(folder, model, self.hooks)
        else:
            with untouched_generators(), where_it_fits(model, self.world, self.log.say):
                self.hooks.measure(model)
            if self.probe_items is not None:
                self.probe_items.cache_clear()  # all rows are read; training needs the memory
            self.hooks.ctx.reference = reference_loader(model, self.before, self.start, job)
            with labels_only():
                model = self._train(model, resume)
            if folder.is_dir() and self.world.is_main:
                checkpoint.sync(self.partial)
                shutil.rmtree(self.partial / "trainer", ignore_errors=True)
            elif self.hooks.at("merge") and self.world.is_main:
                save_trained(folder, model, self.hooks)
                checkpoint.sync(self.partial)  # metrics.jsonl, which could be made again until now
                shutil.rmtree(self.partial / "trainer", ignore_errors=True)
        self.clock.lap("train")
        self.clock.move(self.looking, "train", "look")
        return model

    def _train(self, model: Any, resume: str | None) -> Any:
        """Every optimizer step that is left."""
        job, data = self.job, self.data
        config = trainer_config(self.kind, job, data, self.world)
        named = job.roles.get("reference")
        reference = checkpoint_of(named) if named else self.first
        trainer = self.kind.trainer(
            Material(
                model, self.tokenizer, data.train, data.held_out, config, reference, self.first, job
            )
        )
        self.check_accelerator(trainer.accelerator)
        replace_bars(trainer, job.name, self.log, self.world.is_main)
        record_metrics(trainer, self.partial, self.world.is_main)
        every = job.spec.checkpoint_every or job.checkpoint_every
        steps = candidate_steps(data.num_steps, every, job.candidates)
        keep_candidates(trainer, self.partial, steps, resume, self.world.is_main)
        kind = self.kind
        trainer.attach(self.hooks, kind.loss_mask, kind.reduction, kind.sequences_per_row)
        # The Trainer measures the held-out loss before the first step, but not after each interruption.
        trainer.args.eval_on_start = data.held_out is not None and resume is None
        if resume is None:
            self._look_before(trainer, reference)
        else:
            step = Path(resume).name.removeprefix("checkpoint-")
            self.log.say(f"{job.name}: continuing at step {step} of {data.num_steps}")
            continue_counts(trainer, Path(resume))
        watcher = self._watch(trainer)
        trainer.train(resume_from_checkpoint=resume)
        if watcher is not None:
            if watcher.stopped_at is not None or "stopped_at" in read_checks(self.partial):
                self._note_check("stopped_at", watcher.stopped_at)
            self.looking = watcher.seconds
        if data.held_out is not None and not is_measured(trainer.state):
            # Interrupted between the last step's checkpoint and the end of its epoch.
            trainer.evaluate()
        if self.is_apart():
            weights = trainer.trained_weights()
            save_spread(self.partial / "trained", weights, self.hooks, self.world)
        # Without what mixed precision wraps around forward: the result is measured as a reloaded one is.
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        # Optimizer states, reference models and graphs go before the merge and the probes.
        trainer.optimizer = trainer.lr_scheduler = trainer.ref_model = None
        trainer.accelerator.free_memory()
        return trained

    def _watch(self, trainer: Any) -> Any:
        """What looks at the model while it trains, if anything does."""
        spec = self.job.spec.watch
        if not spec:
            return None
        rows, ctx = self.data.exemplars, self.hooks.ctx
        drift = drift_of(spec, self.job, self.kind, self.before, rows, self.tokenizer, ctx)
        look = self.make_look(self.data.num_steps)
        return watch(
            trainer, spec, drift, look, self.partial, self.tokenizer, self.world, self.log.say
        )

    def _look_before(self, trainer: Any, reference: str) -> None:
        """Check the reference before the first step."""
        if self.samples and self.kind.uses("reference", self.job.spec):
            where = f"{self.job.name}: reference"
            is_start = reference == self.first
            divergence = check_reference(trainer, reference, is_start, self.samples, where)
            self._note_check("kl_to_reference_at_start", divergence)

    def _merge(self, trained: Any) -> None:
        """Averages, adapters, interpolation; then `checkpoint/`, and `adapter/` beside it."""
        config = checkpoint.load_config(self.start, bool(self.job.load.get("trust_remote_code")))
        self.model = self.hooks.merge(trained)
        # What trainers change for their own sake is no property of the checkpoint.
        self.model.config.use_cache = getattr(config, "use_cache", True)
        self.model.config._name_or_path = config._name_or_path
        self.clock.lap("merge")
        if self.world.is_main:
            # Before `checkpoint/`, behind which an interrupted stage no longer has its hooks' state.
            self.hooks.keep(self.partial / "memory")
            save_checkpoint(self.partial, self.model, self.tokenizer)
        self.world.barrier()
        self.clock.lap("save")

    def _save_adapter(self, model: Any) -> None:
        """`adapter/`: what the hook that trained it is about to merge, averaged where a hook averages."""
        if self.world.is_main:
            with replacing(self.partial / "adapter") as folder:
                model.save_pretrained(folder, selected_adapters=["default"])

    def _describe(self) -> None:
        """Exemplars and, last, the manifest."""
        partial = self.partial
        if self.kind.checks_eos:
            after = eos_rate(self.model, self.tokenizer, self.samples)
            self._note_check("eos_rate_after", after)
            note = eos_note(read_checks(partial).get("eos_rate_before", 0.0), after)
            self.data.notes.extend([note] if note else [])
        write_lines(partial / past.EXEMPLARS, self.data.exemplars)
        remove_unfinished(partial)
        if steps := list(kept(partial)):
            self._note_check("candidates", steps)
        checkpoint.sync(partial)  # what the manifest vouches for
        self.clock.lap("save")
        data, planned = self.data, self.data.num_steps
        if (stopped := read_checks(partial).get("stopped_at")) is not None:
            part = stopped / planned
            seen = [
                {**entry, "epochs": round(entry["epochs"] * part, 3)} for entry in data.description
            ]
            data = replace(data, num_steps=stopped, description=seen)
            data.notes.append(f"watch ended the stage at step {stopped} of {planned}")
        describe(
            self.job,
            self.kind,
            self.before,
            data,
            self.hooks,
            self.world,
            self.clock.seconds,
            read_checks(partial),
        ).write(partial)

    def _note_look(self, look: SourceHygiene) -> None:
        """Say and keep what hygiene found among rows that a hook uses beside the stream."""
        if left_out := look.told():
            self.log.say(f"{self.job.name}: {look.name}: {left_out}")
        found = read_checks(self.partial).get("hygiene", {})
        self._note_check("hygiene", {**found, look.name: {"rows": look.num_kept, **look.counts()}})

    def _note_check(self, name: str, value: Any) -> None:
        if self.world.is_main:
            note_check(self.partial, name, value)
