"""One probe in lm-eval: its task loaded, run, and read as a cell. Loads torch and lm-eval."""

import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import torch

from cpt.errors import ProbeError
from eval.harness import load_tasks, share_out
from eval.items import read_cell
from eval.progress import Meter
from eval.suite import Probe
from eval.template import PART, template_of

# lm_eval/defaults.py: what `lm_eval run` seeds Python, numpy, torch and the few-shot sampler with
PYTHON_SEED, NUMPY_SEED, TORCH_SEED, SHOT_SEED = 0, 1234, 1234, 1234

#: lm-eval's tasks by probe; probes that share a run share them.
Loaded = dict[tuple[Any, ...], Any]


def load_all(probes: Iterable[Probe], tokenizer: Any, folder: Path, meter: Meter) -> Loaded:
    """The tasks of probes, with their data, all before the first is measured.

    A data set that is missing, or that the hub hands out to those who were let in only, and a template that
    is not there, then cost no measurement that came before them.

    Raises:
        ProbeError: a task or its data cannot be loaded, or a probe needs a chat template and there is none.
    """
    found: Loaded = {}
    for probe in probes:
        if probe.chat and not tokenizer.chat_template:
            raise ProbeError(
                f"probe {probe.name} has `chat: true`, but the tokenizer has no chat template; "
                f"set `chat: false`, or give the model a template"
            )
        if probe.run not in found:
            if meter.show is not None:
                meter.show(f"\rprobe {probe.name}: loading {probe.task}")
            _seed()
            found[probe.run] = load_tasks(probe.name, probe.task, folder if probe.local else None)
    return found


def measure(harness: Any, probe: Probe, loaded: Any) -> Any:
    """lm-eval's results (None but on the main rank) and the tasks that ran."""
    from lm_eval.evaluator import evaluate

    _seed()
    for task in loaded["tasks"].values():
        shots = task.get_config("num_fewshot") if probe.shots is None else probe.shots
        task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=SHOT_SEED)
        if harness.world_size > 1:
            share_out(task)
    results = evaluate(
        lm=harness,
        task_dict=loaded,
        limit=probe.limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=probe.chat,
        fewshot_as_multiturn=probe.chat,
    )
    return results, loaded["tasks"]


def cell(found: Any, probe: Probe, since: float, dtype: str, tokenizer: Any) -> dict[str, Any]:
    """What `measure` found as a cell of the matrix, with what only the model says of how it was measured."""
    made = read_cell(found[0], probe, found[1])
    made["parts"]["dtype"] = dtype.removeprefix("torch.")
    if probe.chat:
        made["parts"][PART] = template_of(tokenizer)
    return {**made, "seconds": round(time.perf_counter() - since, 2)}


def _seed() -> None:
    random.seed(PYTHON_SEED)
    numpy.random.seed(NUMPY_SEED)
    torch.manual_seed(TORCH_SEED)
