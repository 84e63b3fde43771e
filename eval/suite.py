"""A probe suite: which lm-eval tasks, at which fixed settings. Reading one needs no lm-eval."""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import Field

from cpt import yaml12
from cpt.errors import CptError, ProbeError
from cpt.ids import short_hash
from cpt.settings import Settings, did_you_mean, validate
from eval.taskfile import TaskFile, find_tasks, read_task, write_task
from eval.view import (
    ViewSpec,
    builder_fingerprint,
    check_view,
    view_file,
    with_data_configs,
)

GROUPS = ("domain", "knowledge", "reasoning", "language", "instruction", "code", "safety")


class ProbeSpec(Settings):
    """One entry of `probes:`."""

    task: str | None = Field(None, min_length=1)
    group: str
    metric: str | None = Field(None, min_length=1)
    shots: int | None = Field(None, ge=0)
    chat: bool = False
    limit: int | None = Field(None, ge=1)
    margin: float | None = Field(None, ge=0)
    data: ViewSpec | None = None


class SuiteSpec(Settings):
    """What `configs/probes/<suite>.yaml` may hold."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    include: str | list[str] | None = None
    batch_size: int = Field(16, ge=1)
    max_length: int | None = Field(None, ge=2)
    backend: Literal["hf", "vllm"] = "hf"
    probes: dict[str, ProbeSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Probe:
    """One lm-eval task at fixed settings. `local` is None for a task that lm-eval itself brings.

    `fingerprint` hashes all that changes its numbers; scores with different ones are not compared.
    `metric` may be None (the task's only one) and `shots` None (the task's own) until it runs.
    """

    name: str
    task: str
    group: str
    metric: str | None
    shots: int | None
    chat: bool
    limit: int | None
    margin: float | None
    data: ViewSpec | None
    local: TaskFile | None
    fingerprint: str


@dataclass(frozen=True)
class Suite:
    """Probes by name, and how they run."""

    name: str
    path: Path
    batch_size: int
    max_length: int | None
    probes: dict[str, Probe]
    backend: str = "hf"

    @cached_property
    def hash(self) -> str:
        """Hash of all that changes a number: not margins, groups, batch size or the name."""
        return short_hash({name: probe.fingerprint for name, probe in self.probes.items()})


def load_suite(path: Path, backend: str | None = None) -> Suite:
    """Read and check a suite; imports neither lm-eval nor datasets.

    Args:
        backend: in place of the file's.

    Raises:
        ProbeError: names file, path, value and the nearest right word.
    """
    try:
        tree = yaml12.load(path)
    except CptError as error:
        raise ProbeError(str(error)) from None
    spec = validate(SuiteSpec, with_data_configs(path, tree), str(path), ProbeError)
    tasks = find_tasks(_folders(path, spec))
    known: dict[tuple[str, str], str] = {}
    probes = {
        name: _probe(path, name, probe, tasks, spec.max_length, known)
        for name, probe in spec.probes.items()
    }
    _check_views(path, probes)
    backend = backend or spec.backend
    probes = {name: _on(backend, probe) for name, probe in probes.items()}
    return Suite(spec.name, path, spec.batch_size, spec.max_length, probes, backend)


def _on(backend: str, probe: Probe) -> Probe:
    """The probe on a backend, whose numbers are its own."""
    if backend == "hf":
        return probe
    return replace(probe, fingerprint=short_hash([probe.fingerprint, backend], 16))


def materialise(suite: Suite, folder: Path) -> Path:
    """Write the suite's local tasks so that lm-eval runs them alone; builds data that is missing.

    `lm_eval run --include_path <folder> --tasks ...` then gives the numbers that we give. Each task
    gets a folder: one YAML (includes merged, data files absolute) and its `!function` modules.
    """
    for task, probes in _by_task(suite.probes).items():
        local, data = probes[0].local, probes[0].data
        if local is not None:
            shots = {probe.shots for probe in probes}
            single = shots.pop() if len(shots) == 1 else None
            write_task(local, folder / task, view_file(data) if data else None, single)
    return folder


def _folders(path: Path, spec: SuiteSpec) -> list[Path]:
    include = [spec.include] if isinstance(spec.include, str) else spec.include or []
    folders = [(path.parent / name).resolve() for name in include]
    for name, folder in zip(include, folders, strict=True):
        if not folder.is_dir():
            near = yaml12.nearest_file(folder)
            raise ProbeError(f"{path}: include: {name!r} is no folder ({folder}){near}")
    return folders


def _probe(
    path: Path,
    name: str,
    spec: ProbeSpec,
    tasks: dict[str, Path],
    max_length: int | None,
    known: dict[tuple[str, str], str],
) -> Probe:
    where = f"{path}: probes.{name}"
    task = spec.task or name
    if spec.group not in GROUPS:
        raise ProbeError(
            f"{where}.group: no group {spec.group!r}{did_you_mean(spec.group, GROUPS)}"
        )
    local = read_task(task, tasks[task]) if task in tasks else None
    if local is None:
        _check_foreign(where, task, spec, tasks)
    data = spec.data and check_view(where, path, spec.data)
    if local is not None and data is not None and local.config.get("dataset_path") != "json":
        raise ProbeError(
            f"{where}.data: task {task} has dataset_path "
            f"{local.config.get('dataset_path')!r}; only 'json' takes a view"
        )
    metric = _metric(where, spec.metric, local)
    settings = {
        "task": local.content if local else [task, _lm_eval_version()],
        "data": data and [data.builder, data.view, builder_fingerprint(where, data, known)],
        "metric": metric,
        "shots": spec.shots,
        "chat": spec.chat,
        "limit": spec.limit,
        "max_length": max_length,
    }
    return Probe(
        name=name,
        task=task,
        group=spec.group,
        metric=metric,
        shots=spec.shots,
        chat=spec.chat,
        limit=spec.limit,
        margin=spec.margin,
        data=data,
        local=local,
        fingerprint=short_hash(settings, 16),
    )


def _check_foreign(where: str, task: str, spec: ProbeSpec, tasks: dict[str, Path]) -> None:
    """A task that no included folder has is lm-eval's own, unless it looks like a typo."""
    import difflib

    key = f"{where}.task" if spec.task else where
    close = difflib.get_close_matches(task, tasks, n=1, cutoff=0.8)
    if close or (spec.data is not None and tasks):
        raise ProbeError(f"{key}: no task {task!r} in `include`{did_you_mean(task, tasks)}")
    if spec.data is not None:
        raise ProbeError(f"{where}.data: {task} is lm-eval's own task and brings its own data")
    if any(letter.isspace() for letter in task):
        raise ProbeError(f"{key}: {task!r} is no task name")


def _metric(where: str, metric: str | None, local: TaskFile | None) -> str | None:
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


def _check_views(path: Path, probes: dict[str, Probe]) -> None:
    for task, same in _by_task(probes).items():
        if len({short_hash(probe.data and probe.data.model_dump()) for probe in same}) > 1:
            names = " and ".join(probe.name for probe in same)
            raise ProbeError(
                f"{path}: probes {names} give task {task!r} different data; "
                f"a task has one data set, so copy its YAML under another name"
            )


def _by_task(probes: dict[str, Probe]) -> dict[str, list[Probe]]:
    found: dict[str, list[Probe]] = {}
    for probe in probes.values():
        found.setdefault(probe.task, []).append(probe)
    return found


def _lm_eval_version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return "unknown"
