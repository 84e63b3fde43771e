"""A probe's settings against its task and the backend: does it exist, which metrics are there, which way is
better?"""

import difflib
from pathlib import Path

from cpt.errors import ProbeError
from cpt.settings import did_you_mean
from eval.behaviour.manners import OF_ENDINGS
from eval.suite_spec import ProbeSpec, SuiteSpec
from eval.taskfile import Function, TaskFile

#: What gives the metrics of endings.
_MANNERS = "eval.behaviour.manners.process_results"


def check_foreign(where: str, task: str, spec: ProbeSpec, tasks: dict[str, Path]) -> None:
    """A task that no included folder has is lm-eval's own, unless it looks like a typo."""
    key = f"{where}.task" if spec.task else where
    close = difflib.get_close_matches(task, tasks, n=1, cutoff=0.8)
    if close or (spec.data is not None and tasks):
        raise ProbeError(f"{key}: no task {task!r} in `include`{did_you_mean(task, tasks)}")
    if spec.data is not None:
        raise ProbeError(f"{where}.data: {task} is lm-eval's own task and brings its own data")
    if any(letter.isspace() for letter in task):
        raise ProbeError(f"{key}: {task!r} is no task name")


def metric_of(where: str, metric: str | None, local: TaskFile | None) -> str | None:
    """The metric that a local task reports; lm-eval's own tasks are asked when they run."""
    if local is None or not local.metrics:
        return metric
    known = list(local.metrics)
    if metric is None:
        if len(known) > 1:
            raise ProbeError(f"{where}.metric is missing; task {local.name} has {', '.join(known)}")
        return known[0]
    if metric.partition(",")[0] not in known:
        near = did_you_mean(metric.partition(",")[0], known)
        raise ProbeError(f"{where}.metric: task {local.name} has no {metric!r}{near}")
    return metric


def check_direction(
    where: str, spec: ProbeSpec, metric: str | None, local: TaskFile | None
) -> None:
    """`higher` and `lower` must not contradict the task; lm-eval's own tasks are asked when they run."""
    if spec.direction == "none" and spec.owner is not None:
        raise ProbeError(
            f"{where}.owner: nothing is learnt by a probe with `direction: none`; remove it, or say which "
            f"direction is better"
        )
    if local is None or metric is None:
        return
    entry = local.metrics.get(metric.partition(",")[0]) or {}
    if problem := contradiction(spec.direction, entry.get("higher_is_better")):
        raise ProbeError(f"{where}.direction: {problem}")


def contradiction(direction: str | None, higher: bool | None) -> str | None:
    """What is wrong with a probe's direction, given what its task says of the metric, if anything."""
    if direction not in ("higher", "lower") or higher is None or higher is (direction == "higher"):
        return None
    said = "higher" if higher else "lower"
    return f"{direction!r}, but the task says that {said} is better; remove it, or write {said!r}"


def check_backend(path: Path, spec: SuiteSpec, backend: str) -> None:
    """Settings of the suite that its own backend does not have.

    A backend from the command line goes before the file's, whose settings were written for the other one;
    those then have no meaning, and are no mistake.
    """
    if spec.tensor_parallel is not None and spec.backend != "vllm":
        raise ProbeError(
            f"{path}: tensor_parallel: {spec.tensor_parallel}: only vLLM spreads one model over GPUs; write "
            f"backend: vllm too, or remove it"
        )
    if spec.backend == backend == "vllm" and "batch_size" in spec.model_fields_set:
        raise ProbeError(
            f"{path}: batch_size: {spec.batch_size}: vLLM fills its batches itself; remove it, or write "
            f"backend: hf"
        )


def check_endings(where: str, metric: str | None, local: TaskFile | None, backend: str) -> None:
    """How an answer ended is known of our own backend's answers alone; vLLM's come as plain text."""
    if backend == "hf" or local is None or metric is None:
        return
    made_by = local.config.get("process_results")
    is_ours = isinstance(made_by, Function) and made_by.name == _MANNERS
    if is_ours and metric.partition(",")[0] in OF_ENDINGS:
        raise ProbeError(
            f"{where}.metric: {metric} says how an answer ended, which backend: {backend} does not tell; "
            f"remove the probe from a copy of the suite, or write backend: hf"
        )
