"""A stage under way: what it was opened with before its first step, and what it notes of itself."""

from functools import cache, partial
from typing import Any

from cpt.hooks.stack import HookStack
from cpt.memory import fits
from cpt.store import replacing
from cpt.world import SPREADING, World
from stages import kind_of
from stages.base import Job
from stages.context import context
from stages.hygiene import MakeItems, SourceHygiene, clean_rows
from stages.interruption import is_trained
from stages.log import StageLog
from stages.material import stage_supply
from stages.memory import forget_peak
from stages.notes import Clock, note_check, read_checks
from stages.opening import (
    build_hooks,
    first_checkpoint,
    num_new_rows,
    open_model,
    open_tokenizer,
    past_of,
    start_folder,
)
from stages.quantised_start import CHECK, open_start, sample_rows
from stages.shapes import check_shapes
from stages.trainer_config import trainer_config

NUM_SAMPLES = 16


class UnderWay:
    """One run of one stage.

    Attributes:
        before, start: the stages before, and the folder of its first weights.
        first: the checkpoint with these weights, an adapter that goes on among them.
        data: what it trains on.
        model: as it was loaded; at the end as it is saved.
        is_apart: it is still to train on a backend that spreads numbers over processes, and goes on behind
            its last step as one whole model.
        samples: tokens of a few prompts.
        clock: seconds of its parts.
    """

    def __init__(self, job: Job, world: World, log: StageLog, probe_items: MakeItems) -> None:
        self.job, self.world, self.log = job, world, log
        self.partial = job.partial
        self.clock = Clock()
        forget_peak()
        self.kind = kind_of(job.spec.kind, job.spec.file or job.name)
        self.before = past_of(job)
        self.start = start_folder(self.before)
        self.tokenizer = open_tokenizer(job, self.before, self.start)
        ctx = context(job, self.kind, self.tokenizer, self.start, world, log.say)
        items = self.probe_items = cache(probe_items) if probe_items is not None else None
        ctx.clean = partial(clean_rows, job.spec.hygiene, items, self.note_look)
        ctx.save_adapter = self._save_adapter
        self.hooks = HookStack(build_hooks(job), ctx)
        self.first = first_checkpoint(self.before, self.start, self.hooks)
        self.hooks.recall(self.before)
        # Before any weights load, and while nothing waits in a collective.
        self.data = stage_supply(job, self.kind, self.hooks, self.tokenizer, world, log.say, items)
        self.hooks.ctx.num_steps = self.data.num_steps
        assert ctx.encode is not None
        ctx.samples = cache(partial(sample_rows, ctx.encode, self.data.exemplars))
        ctx.declared = partial(open_model, job, self.tokenizer, self.start)
        ctx.note = self.note_check
        if job.backend in (
            "single",
            "ddp",
        ):  # DeepSpeed's config would spread what is loaded behind it
            trainer_config(self.kind, job, self.data, world)  # refuses what this machine cannot do
        log.say(f"{job.name}: loading {self.before[-1].id}")
        self.model, kl = open_start(
            job,
            self.tokenizer,
            self.start,
            self.hooks.quantisation(),
            ctx.samples,
            world,
            log.say,
        )
        if kl is not None:
            self.note_check(CHECK, kl)
        ctx.new_rows = num_new_rows(job, self.model, self.start)
        check_shapes(self.model, self.hooks, self.before, self.start, job)
        is_whole = job.backend in ("single", "ddp") or is_trained(self.partial, world)
        self.is_apart = not is_whole
        if not (world.spreads and self.is_apart):
            self.place()
        self.samples = self.kind.prompts(self.data.exemplars, self.tokenizer, NUM_SAMPLES)
        self.clock.lap("load")

    def place(self) -> None:
        """Put the model where this process computes.

        What was spread over several devices may fit on none: the end of its stage is then on the host.
        """
        if self.job.backend not in SPREADING or fits(self.model, self.world.device):
            self.model.to(self.world.device)
        else:
            self.log.say(f"{self.job.name}: the whole model does not fit on {self.world.device}")

    def forget_items(self) -> None:
        """All rows that hygiene compares with them are read; training needs the memory."""
        if self.probe_items is not None:
            self.probe_items.cache_clear()

    def _save_adapter(self, model: Any) -> None:
        """`adapter/`: what the hook that trained it is about to merge, averaged where a hook averages."""
        if self.world.is_main:
            with replacing(self.partial / "adapter") as folder:
                model.save_pretrained(folder, selected_adapters=["default"])

    def note_look(self, look: SourceHygiene) -> None:
        """Say and keep what hygiene found among rows that a hook uses beside the stream."""
        if left_out := look.told():
            self.log.say(f"{self.job.name}: {look.name}: {left_out}")
        found = read_checks(self.partial).get("hygiene", {})
        self.note_check("hygiene", {**found, look.name: {"rows": look.num_kept, **look.counts()}})

    def note_check(self, name: str, value: Any) -> None:
        """Keep the value of a check for the manifest."""
        if self.world.is_main:
            note_check(self.partial, name, value)
