"""One task on one side: its answers, and where its seconds went.

The sides: `HFLM` as lm-eval runs it, `HFLM kept` with freed memory kept as `cpt` keeps it, `HFLM 4x` as
that with four times the rows in a batch, and `ours`. Ours fills batches by tokens: of the suite's rows
times its longest sequence, packed, so that a batch holds more sequences where they are short or begin
alike, and as many as four times the rows where it generates. What bigger batches alone are worth shows
beside `HFLM 4x`.
"""

import copy
import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from cpt.memory import keep_freed_memory

SIDES = ("HFLM", "HFLM kept", "HFLM 4x", "ours")
#: Rows of `HFLM 4x`, times the suite's.
TIMES = 4
PARTS = ("backbone", "head", "tokens", "class", "lm-eval")


def keep_memory(kept: bool) -> None:
    """Large freed blocks stay with the process, as in a stage on a CPU, or are mapped anew, as glibc does.

    Left alone, glibc raises the size from which it maps blocks to 32 MiB as such are freed, and what it
    keeps to twice that (malloc.h, mallopt(3)); once set, they stay, so they are set to that.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
    libc = ctypes.CDLL(None)
    if kept:
        keep_freed_memory()
    else:
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
        libc.malloc_trim(0)


class Side:
    """A side's model class on a model in memory, built once for all tasks of a suite."""

    def __init__(self, name: str, model: Any, tokenizer: Any, suite: Any) -> None:
        """Build it; with other rows than the suite's where the side says so."""
        from lm_eval.models.huggingface import HFLM

        from eval.harness import Model, frozen
        from eval.progress import Meter, quiet

        self.name, self.model, self.tokenizer = name, model, tokenizer
        rows = suite.batch_size * (TIMES if name == "HFLM 4x" else 1)
        settings: dict[str, Any] = {"batch_size": rows, "max_length": suite.max_length}
        words = copy.deepcopy(tokenizer)
        with quiet(Meter(None), False), frozen(model):
            if name != "ours":
                self.lm: Any = HFLM(pretrained=model, tokenizer=words, **settings)
            else:
                own: dict[str, Any] = {"accelerator": None, "sharded": False, "meter": Meter(None)}
                self.lm = Model(model, words, **settings, **own)

    def run(self, probe: Any, folder: Path) -> dict[str, Any]:
        """lm-eval's `evaluate` of a probe's task, which is loaded before the clock runs."""
        from eval import measuring
        from eval.harness import frozen, templates_compiled_once
        from eval.progress import Meter, quiet

        keep_memory(self.name != "HFLM")
        with ExitStack() as stack:
            stack.enter_context(quiet(Meter(None), False))
            stack.enter_context(frozen(self.model))
            if self.name == "ours":
                stack.enter_context(templates_compiled_once())
            tasks = measuring.load_all([probe], self.tokenizer, folder, Meter(None))
            spent = stack.enter_context(timed(self.lm, self.model))
            began = time.perf_counter()
            results, loaded = measuring.measure(self.lm, probe, tasks[probe.run])
            total = time.perf_counter() - began
        inside = spent.pop("inside")
        parts = {**spent, "class": inside - sum(spent.values()), "lm-eval": total - inside}
        samples = [s for name in loaded for s in results["samples"][name]]
        metrics = {
            key: value
            for key, value in results["results"][probe.task].items()
            if "," in key and "_stderr" not in key
        }
        return {
            "answers": [sample["resps"] for sample in samples],
            "metrics": metrics,
            "parts": {name: round(value, 3) for name, value in {**parts, "all": total}.items()},
        }


@contextmanager
def timed(lm: Any, model: Any) -> Iterator[dict[str, float]]:
    """Seconds inside lm-eval's model class, and of these in the backbone, the head, and making tokens."""
    import torch

    spent = dict.fromkeys(("inside", "backbone", "head", "tokens"), 0.0)
    since: dict[str, float] = {}

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def watched(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            begin = now()
            try:
                return call(*given, **named)
            finally:
                spent[part] += now() - begin

        return run

    hooks = []
    for part, module in (("backbone", model.base_model), ("head", model.get_output_embeddings())):

        def enter(*_: Any, part: str = part) -> None:
            since[part] = now()

        def leave(*_: Any, part: str = part) -> None:
            spent[part] += now() - since[part]

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    with ExitStack() as stack:
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            stack.enter_context(mock.patch.object(lm, name, watched("inside", getattr(lm, name))))
        for name in ("tok_encode", "tok_batch_encode"):
            stack.enter_context(mock.patch.object(lm, name, watched("tokens", getattr(lm, name))))
        try:
            yield spent
        finally:
            for hook in hooks:
                hook.remove()


def largest_difference(ones: Any, others: Any) -> float | None:
    """Largest |a - b| of numbers in equal places; None where texts differ, 0.0 where they are equal."""
    if isinstance(ones, list | tuple):
        found = [largest_difference(a, b) for a, b in zip(ones, others, strict=True)]
        numbers = [number for number in found if number is not None]
        return None if len(numbers) < len(found) else max(numbers, default=0.0)
    if isinstance(ones, float):
        return float(abs(ones - others))
    return 0.0 if ones == others else None


def same(ones: dict[str, float], others: dict[str, float]) -> bool:
    """Whether all metrics are equal: accuracies exactly, bits per byte up to rounding."""
    return ones.keys() == others.keys() and all(
        math.isclose(value, others[key], rel_tol=1e-6) for key, value in ones.items()
    )
