"""A probe suite: which lm-eval tasks, at which fixed settings. Reading one needs no lm-eval."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cpt import yaml12
from cpt.errors import CptError, ProbeError
from cpt.ids import short_hash
from cpt.settings import did_you_mean, validate
from eval.suite_checks import (
    check_backend,
    check_direction,
    check_endings,
    check_foreign,
    metric_of,
)
from eval.suite_spec import FACETS, GROUPS, ProbeSpec, SuiteSpec
from eval.taskfile import TaskFile, find_tasks, read_task, write_task
from eval.view import (
    ViewSpec,
    builder_fingerprint,
    check_view,
    view_file,
    with_data_configs,
)


@dataclass(frozen=True)
class Probe:
    """One lm-eval task at fixed settings. `local` is None for a task that lm-eval itself brings.

    `fingerprint` hashes all that changes its numbers; scores with different ones are not compared.
    `metric` may be None (the task's only one), `shots` None (the task's own) and `direction` None
    (what the task says) until it runs. `parts` are what the fingerprint hashes, by name.
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
    facet: str | None = None
    direction: str | None = None
    owner: str | None = None
    dev: float = 0.0
    cluster: str | None = None
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, Any]:
        """What a result says of the probe that changes neither its numbers nor its fingerprint."""
        found = {"group": self.group, "facet": self.facet, "owner": self.owner}
        if self.direction in ("higher", "lower"):
            return {**found, "margin": self.margin, "higher_is_better": self.direction == "higher"}
        return {**found, "margin": self.margin}

    @property
    def run(self) -> tuple[Any, ...]:
        """What probes share that lm-eval measures in one pass: they differ in their metric only."""
        return self.task, self.shots, self.chat, self.limit


@dataclass(frozen=True)
class Suite:
    """Probes by name, and how they run."""

    name: str
    path: Path
    batch_size: int
    max_length: int | None
    probes: dict[str, Probe]
    backend: str = "hf"
    tensor_parallel: int | None = None

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
        name: _probe(path, name, probe, tasks, spec, known) for name, probe in spec.probes.items()
    }
    _check_views(path, probes)
    backend = backend or spec.backend
    check_backend(path, spec, backend)
    for name, probe in probes.items():
        check_endings(f"{path}: probes.{name}", probe.metric, probe.local, backend)
    return Suite(
        name=spec.name,
        path=path,
        batch_size=spec.batch_size,
        max_length=spec.max_length,
        probes={name: _on(backend, probe) for name, probe in probes.items()},
        backend=backend,
        tensor_parallel=spec.tensor_parallel,
    )


def _on(backend: str, probe: Probe) -> Probe:
    """The probe on a backend, whose numbers are its own."""
    if backend == "hf":
        return probe
    parts = {**probe.parts, "backend": backend}
    return replace(probe, fingerprint=short_hash([probe.fingerprint, backend], 16), parts=parts)


def materialise(suite: Suite, folder: Path) -> Path:
    """Write the suite's local tasks so that lm-eval runs them alone; builds data that is missing.

    `lm_eval run --include_path <folder> --tasks ...` then gives the numbers that we give. Each task
    gets a folder: one YAML (includes merged, data files absolute) and its `!function` modules. Tasks on
    manners call `eval.behaviour`, so lm-eval needs cpt in its environment for these.
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
    suite: SuiteSpec,
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
        check_foreign(where, task, spec, tasks)
    data = spec.data and check_view(where, path, spec.data)
    if local is not None and data is not None and local.config.get("dataset_path") != "json":
        raise ProbeError(
            f"{where}.data: task {task} has dataset_path "
            f"{local.config.get('dataset_path')!r}; only 'json' takes a view"
        )
    metric = metric_of(where, spec.metric, local)
    check_direction(where, spec, metric, local)
    dev = suite.dev if spec.dev is None else spec.dev
    settings: dict[str, Any] = {
        "task": local.content if local else [task, _lm_eval_version()],
        "data": data and [data.builder, data.view, builder_fingerprint(where, data, known)],
        "metric": metric,
        "shots": spec.shots,
        "chat": spec.chat,
        "limit": spec.limit,
        "max_length": suite.max_length,
    }
    # Settings that came later: a probe that leaves them alone keeps its results. They change no
    # number, but what a result says of its items, or which way is better.
    settings |= {"dev": dev} if dev else {}
    settings |= {"cluster": spec.cluster} if spec.cluster else {}
    settings |= {"direction": "none"} if spec.direction == "none" else {}
    parts = settings | {
        "task": short_hash(local.content, 16) if local else f"lm_eval {_lm_eval_version()}",
        "data": data and f"{data.builder} {data.view} {short_hash(settings['data'], 16)}",
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
        facet=spec.facet or FACETS[spec.group],
        direction=spec.direction,
        owner=spec.owner,
        dev=dev,
        cluster=spec.cluster,
        parts={part: _word(value) for part, value in parts.items()},
    )


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


def _word(value: Any) -> str:
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _lm_eval_version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return "unknown"
