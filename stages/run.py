"""One stage from its parent's checkpoint to its own: load, recall, mix, adapt, train, merge, keep, save.

Each part leaves a trace in `<id>.partial`, and an interrupted stage continues behind the last one:
`trainer/checkpoint-N` (training), `trained/` (before the merge), `checkpoint/` (before publishing).
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt import checkpoint, ids, past
from cpt.hooks import table
from cpt.hooks.base import Hook, StageContext
from cpt.hooks.stack import HookStack
from cpt.model_source import apply_change
from cpt.store import publish, replacing
from cpt.world import World, current
from stages import kind_of
from stages.base import Job, Material, StageKind
from stages.checks import check_reference, check_vocabulary, eos_note, eos_rate
from stages.interruption import (
    check_topology,
    continue_counts,
    load_trained,
    newest_checkpoint,
    remove_leftovers,
    save_trained,
)
from stages.material import Supply, supply
from stages.opening import checkpoint_of, open_tokenizer, reference_loader, start_folder
from stages.progress import replace_bars
from stages.publish import describe, history, write_lines
from stages.trl_args import trl_config

NUM_SAMPLES = 8


def set_seed(seed: int) -> None:
    """Seed every generator, as transformers does."""
    from transformers import set_seed as seed_all

    seed_all(seed)


def run(
    job: Job,
    say: Callable[[str], None],
    check_accelerator: Callable[[Any], None] = lambda accelerator: None,
) -> tuple[Any, Any]:
    """Train one stage and publish its folder, or continue where it was interrupted.

    Args:
        job: what to do.
        say: told what happens.
        check_accelerator: refuses processes other than those that were asked for.

    Returns: the model and the tokenizer, as they were saved.
    """
    world = current()
    if world.is_main:
        job.partial.mkdir(parents=True, exist_ok=True)
        check_topology(job.partial, job, world)
    world.barrier()
    stage = _StageRun(job, world, say, check_accelerator)
    model = stage.finished()
    for note in stage.data.notes:
        say(f"{job.name}: note: {note}")
    return model, stage.tokenizer


class _StageRun:
    """One run of one stage: what it was opened with, and the parts in order."""

    def __init__(
        self,
        job: Job,
        world: World,
        say: Callable[[str], None],
        check_accelerator: Callable[[Any], None],
    ) -> None:
        self.job, self.world, self.say = job, world, say
        self.check_accelerator = check_accelerator
        self.partial = job.partial
        self.clock = _Clock()
        self.kind = kind_of(job.spec.kind, job.spec.file or job.name)
        is_folder = Path(job.parent).is_dir()
        self.before = (
            past.of_folder(Path(job.parent)) if is_folder else past.of_checkpoint(job.parent)
        )
        self.start = start_folder(self.before)
        self.tokenizer = open_tokenizer(job, self.before, self.start)
        ctx = StageContext(job.name, self.kind.name, self.kind.formats, job.seed, world, self.start)
        ctx.most_characters = self.kind.most_characters(job.spec)
        self.hooks = HookStack(build_hooks(job), ctx)
        self.hooks.recall(self.before)
        say(f"{job.name}: loading {self.before[-1].id}")
        self.model = checkpoint.load_model(self.start, **job.load)
        if job.spec.model:
            apply_change(self.model, self.tokenizer, job.spec.model)
        check_vocabulary(self.model, self.tokenizer, f"{job.name}: {self.start}")
        self.model.to(world.device)
        with world.main_first():
            self.data = supply(self.kind, job.spec, job.seed, self.hooks, self.tokenizer)
        self.samples = self.kind.prompts(self.data.exemplars, self.tokenizer, NUM_SAMPLES)
        self.clock.lap("load")

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
        if self.world.is_main:
            if not (partial / "manifest.json").is_file():
                self._describe()
            remove_leftovers(partial)
            publish(partial, job.output)
        self.world.barrier()
        return self.model

    def _trained(self) -> Any:
        """The model after its last step: trained now, or before the interruption."""
        job, folder = self.job, self.partial / "trained"
        resume = newest_checkpoint(self.partial, self.world)
        if self.kind.checks_eos and resume is None and not folder.is_dir() and self.world.is_main:
            self._note_check("eos_rate_before", eos_rate(self.model, self.tokenizer, self.samples))
        set_seed(job.seed)
        model = self.hooks.adapt(self.model)
        if folder.is_dir():
            load_trained(folder, model, self.hooks)
        else:
            self.hooks.ctx.reference = reference_loader(model, self.before, self.start, job)
            model = self._train(model, resume)
            if self.hooks.at("merge") and self.world.is_main:
                save_trained(folder, model, self.hooks)
                shutil.rmtree(self.partial / "trainer", ignore_errors=True)
        self.clock.lap("train")
        return model

    def _train(self, model: Any, resume: str | None) -> Any:
        """Every optimizer step that is left."""
        job, data = self.job, self.data
        config = _config(self.kind, job, data, self.world)
        named = job.roles.get("reference")
        reference = checkpoint_of(named) if named else self.start
        trainer = self.kind.trainer(
            Material(
                model, self.tokenizer, data.train, data.held_out, config, reference, self.start, job
            )
        )
        self.check_accelerator(trainer.accelerator)
        replace_bars(trainer, job.name, self.say, self.world.is_main)
        kind = self.kind
        trainer.attach(self.hooks, kind.loss_mask, kind.reduction, kind.sequences_per_row)
        # The Trainer measures the held-out loss before the first step, but not after each interruption.
        trainer.args.eval_on_start = data.held_out is not None and resume is None
        if resume is None:
            self._look_before(trainer, reference)
        else:
            step = Path(resume).name.removeprefix("checkpoint-")
            self.say(f"{job.name}: continuing at step {step} of {data.num_steps}")
            continue_counts(trainer, Path(resume))
        trainer.train(resume_from_checkpoint=resume)
        if data.held_out is not None and not _is_measured(trainer.state):
            # Interrupted between the last step's checkpoint and the end of its epoch.
            trainer.evaluate()
        if self.world.is_main:
            ids.atomic_write(self.partial / "log.json", json.dumps(trainer.state.log_history))
        trained = trainer.accelerator.unwrap_model(trainer.model)
        # Optimizer states, reference models and graphs go before the merge and the probes.
        trainer.optimizer = trainer.lr_scheduler = trainer.ref_model = None
        trainer.accelerator.free_memory()
        return trained

    def _look_before(self, trainer: Any, reference: str) -> None:
        """Check the reference before the first step."""
        if self.samples and _uses_reference(trainer, self.kind):
            where = f"{self.job.name}: reference"
            is_start = reference == self.start
            divergence = check_reference(trainer, reference, is_start, self.samples, where)
            self._note_check("kl_to_reference_at_start", divergence)

    def _merge(self, trained: Any) -> None:
        """Averages, adapters, interpolation; then `checkpoint/`, and `adapter/` beside it."""
        if hasattr(trained, "peft_config") and self.world.is_main:
            with replacing(self.partial / "adapter") as folder:
                trained.save_pretrained(folder, selected_adapters=["default"])
        config = checkpoint.load_config(self.start, bool(self.job.load.get("trust_remote_code")))
        self.model = self.hooks.merge(trained)
        # What trainers change for their own sake is no property of the checkpoint.
        self.model.config.use_cache = getattr(config, "use_cache", True)
        self.model.config._name_or_path = config._name_or_path
        self.clock.lap("merge")
        if self.world.is_main:
            # Before `checkpoint/`, behind which an interrupted stage no longer has its hooks' state.
            self.hooks.keep(self.partial / "memory")
            with replacing(self.partial / "checkpoint") as folder:
                self.model.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
                checkpoint.sync(folder)
        self.world.barrier()
        self.clock.lap("save")

    def _describe(self) -> None:
        """Exemplars, curves and, last, the manifest."""
        partial = self.partial
        if self.kind.checks_eos:
            after = eos_rate(self.model, self.tokenizer, self.samples)
            self._note_check("eos_rate_after", after)
            note = eos_note(_read_json(partial / "checks.json").get("eos_rate_before", 0.0), after)
            self.data.notes.extend([note] if note else [])
        write_lines(partial / past.EXEMPLARS, self.data.exemplars)
        write_lines(partial / "metrics.jsonl", history(partial))
        self.clock.lap("save")
        checks = _read_json(partial / "checks.json")
        describe(
            self.job,
            self.kind,
            self.before,
            self.data,
            self.hooks,
            self.world,
            self.clock.seconds,
            checks,
        ).write(partial)

    def _note_check(self, name: str, value: float) -> None:
        if self.world.is_main:
            checks = {**_read_json(self.partial / "checks.json"), name: value}
            ids.atomic_write(self.partial / "checks.json", json.dumps(checks))


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


def _uses_reference(trainer: Any, kind: StageKind) -> bool:
    return "reference" in kind.roles and (kind.name == "dpo" or float(trainer.args.beta) != 0)


def _is_measured(state: Any) -> bool:
    """Whether the held-out loss after the last step is known."""
    return any("eval_loss" in row and row["step"] == state.global_step for row in state.log_history)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}
