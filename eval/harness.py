"""lm-eval as we run it: on a model in memory, data parallel, without work that changes no number.

Imported only when probes run; it loads lm-eval and torch.
"""

import contextlib
import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
from datasets.exceptions import DatasetsError
from lm_eval import utils as lm_eval_utils
from lm_eval.tasks import TaskManager

from cpt.errors import ProbeError
from cpt.settings import did_you_mean
from eval.endings import noted
from eval.packed_model import PackedModel
from eval.prefill import SharedPrompts
from eval.progress import Meter
from eval.ranks import together
from eval.scoring import Answer, Scorer, refuse_unscorable

#: What lm-eval and datasets raise where a task or its data is not there, or not in order.
CANNOT_LOAD = (
    OSError,
    ValueError,
    ImportError,
    KeyError,
    AttributeError,
    RuntimeError,
    DatasetsError,
)


class Model(SharedPrompts):
    """HFLM on a model in memory, which computes once what requests share, where the model can.

    With an accelerator of several processes the requests are shared out over them (HFLM itself does
    that only for models that it loads). Sharded models need equally many forward passes on every
    rank, so they keep HFLM's batches, without its reuse of logits between one-token choices.

    Attributes:
        packed: the model for rows that share tokens; None where all is done in HFLM's own way.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int | None,
        accelerator: Any,
        sharded: bool,
        meter: Meter,
    ) -> None:
        """Take the unwrapped model; it goes into evaluation mode."""
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            logits_cache=not sharded,
        )
        self.sharded = sharded
        self.meter = meter
        self.group = None
        if accelerator is not None and accelerator.num_processes > 1:
            self.group = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        self.packed = None if sharded else self._agreed()

    def _agreed(self) -> PackedModel | None:
        """The model, on every rank with the same abilities: HFLM's own way talks to other ranks."""
        make = functools.partial(PackedModel, self.model, max_length=self.max_length)
        packed = together(make, self.group)
        can = torch.tensor([[packed.is_right, packed.branches]], device=self.device).int()
        is_right, packed.branches = (bool(each) for each in self.all_gather(can).amin(0))
        if packed.why and self.meter.show is not None:
            self.meter.show(packed.why)
        return packed if is_right and self.backend == "causal" else None

    def all_gather(self, tensor: Any) -> Any:
        """The tensors of all ranks."""
        return self.group.gather(tensor) if self.group is not None else tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.group is not None:
            self.group.wait_for_everyone()

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        """Log-likelihood of continuations; a context is tokenised once for all its choices."""
        self.meter.begin(len(requests))
        encoded = functools.lru_cache(maxsize=64)(self.tok_encode)
        with mock.patch.object(self, "tok_encode", encoded):
            return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of texts, in windows of `max_length` tokens that do not overlap."""
        self.meter.begin(len(requests))
        if self.packed is None:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        windows, owners = list[Any](), list[int]()
        for number, request in enumerate(requests):
            for window in lm_eval_utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *lm_eval_utils.make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        """(log-likelihood, is greedy) of (key, context, continuation), truncated on the left."""
        if self.packed is None:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        scorer = Scorer(self.packed, self.softmax_dtype)

        def score() -> list[Answer]:
            pairs = []
            for key, context, end in requests:
                pairs.append((tuple((context + end)[-(self.max_length + 1) : -1]), tuple(end)))
                refuse_unscorable(key, *pairs[-1])
            return scorer.score(pairs, batch_size=self.batch_size, step=self.meter.step)

        answers = together(score, self.group)  # once a call, and every rank makes as many calls
        for (key, *_), answer in zip(requests, answers, strict=True):
            if key is not None:  # windows of a text are no requests
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """Text after each prompt, up to a stop sequence; each is a `Reply`."""
        self.meter.begin(len(requests))
        with noted(self) as self.endings:
            work = functools.partial(super().generate_until, requests, disable_tqdm)
            # Sharded models need every rank in every pass: one that fails cannot be waited for.
            texts = work() if self.sharded else together(work, self.group)
        asked = [request.args for request in requests]
        return [
            self.endings.reply(prompt, settings, text)
            for (prompt, settings), text in zip(asked, texts, strict=True)
        ]

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **more: Any) -> Any:
        """Tokens [B, T] of prompts and answers; note how each answer ended."""
        rows = super()._model_generate(context, max_length=max_length, stop=stop, **more)
        self.endings.note(rows[:, context.shape[1] :].tolist(), stop)
        return rows


def share_out(task: Any) -> None:
    """Let each rank build all requests of a task and keep its own.

    lm-eval lets each rank draw its few-shot examples alone: prompts would depend on the world size.
    """
    build = task.build_all_requests

    def build_and_select(*, rank: int, world_size: int, **settings: Any) -> None:
        build(rank=0, world_size=1, **settings)
        task._instances = [i for i in task._instances if i.doc_id % world_size == rank]

    task.build_all_requests = build_and_select


@contextlib.contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; random states, modes and `use_cache` come back after."""
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    modes = {module: module.training for module in model.modules()}
    use_cache = model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        with torch.no_grad():
            yield
    finally:
        model.config.use_cache = use_cache
        for module, mode in modes.items():
            module.training = mode
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Keep compiled Jinja templates; lm-eval compiles about ten per document, 2 ms each."""
    environment = lm_eval_utils.env
    compiled = functools.lru_cache(maxsize=1024)(environment.from_string)
    with mock.patch.object(environment, "from_string", compiled):
        yield


def load_tasks(probe: str, task: str, folder: Path | None) -> Any:
    """lm-eval's tasks under a name: from a suite's folder, or its own without one.

    Raises:
        ProbeError: there is no such task, or its data cannot be loaded.
    """
    manager = _task_manager(folder)
    if task not in manager.task_index:
        near = did_you_mean(task, manager.all_tasks).partition("; known")[0]
        raise ProbeError(f"probe {probe}: lm-eval has no task {task!r}{near}")
    try:
        return manager.load([task])
    except CANNOT_LOAD as error:
        raise ProbeError(
            f"probe {probe}: task {task} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


@functools.cache
def _task_manager(folder: Path | None) -> TaskManager:
    """The index of a suite's folder, or of lm-eval's own tasks (9 s: once per process)."""
    return TaskManager(include_path=folder, include_defaults=folder is None)
