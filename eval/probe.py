"""Run a suite on a checkpoint, in the process that has the model, and leave that as it was."""

import copy
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from cpt.errors import ProbeError
from cpt.ids import atomic_write
from eval.known import is_complete, result
from eval.noise import second_of
from eval.progress import Meter, quiet
from eval.suite import Suite, materialise


def probe_model(
    model: Any,
    tokenizer: Any,
    suite: Suite,
    *,
    cache: Path,
    stage_id: str,
    accelerator: Any = None,
    progress: Callable[[str], None] | None = None,
    verbose: bool = False,
    known: Mapping[str, dict[str, Any]] | None = None,
    engine: Any = None,
) -> dict[str, Any]:
    """Measure every probe of a suite and return the result, on every rank the same cells.

    All tasks are loaded before the first is measured. Probes that read different metrics of one task at the
    same settings share its run: each prompt is answered once, and the seconds of the first of them are those
    of all.
    Random states, training mode, `use_cache` and the tokenizer stay as they were.

    Args:
        cache: where the suite's tasks are written for lm-eval.
        accelerator: of the running process group; requests are shared out over its processes.
        progress: is given one line per probe, and lines that start with a carriage return while a
            probe runs, which the next may overwrite; see `progress.show_progress`.
        verbose: let lm-eval's own log and bars through.
        known: cells that need no measurement; see `eval.known`. With all of them no model is needed.
        engine: what lm-eval asks in place of the model, for another backend; `model` then only says its
            number type. See `eval.vllm_backend`.

    Raises:
        ProbeError: a probe gave no usable number, or the suite's backend takes no model in memory.
    """
    if is_complete(known, suite):
        return result(suite, stage_id, 0.0, dict(known or {}))
    if suite.backend != "hf" and engine is None:
        raise ProbeError(
            f"suite {suite.name} has `backend: {suite.backend}`, which loads finished checkpoints itself; "
            f"what measures a model in memory needs `backend: hf`"
        )
    from eval import measuring
    from eval.harness import Model, frozen, templates_compiled_once
    from eval.ranks import together

    started = time.perf_counter()
    main = accelerator is None or accelerator.is_main_process
    meter = Meter(progress if main else None)
    model = _unwrapped(model, accelerator)
    cells: dict[str, Any] = {}
    dtype = str(model.dtype)
    kept: AbstractContextManager[None] = nullcontext() if engine else frozen(model)
    with quiet(meter, verbose), templates_compiled_once(), kept:
        folder = _tasks_folder(suite, cache, accelerator)
        harness = engine or Model(
            model,
            copy.deepcopy(tokenizer),
            batch_size=suite.batch_size,
            max_length=suite.max_length,
            accelerator=accelerator,
            sharded=_is_sharded(model),
            meter=meter,
        )
        missing = [p for name, p in suite.probes.items() if name not in (known or {})]
        group = accelerator if accelerator and accelerator.num_processes > 1 else None
        load = functools.partial(measuring.load_all, missing, tokenizer, folder, meter)
        tasks = together(load, group)
        runs: dict[tuple[Any, ...], Any] = {}
        waiting = Counter(probe.run for probe in missing)
        for number, probe in enumerate(suite.probes.values(), start=1):
            if known and probe.name in known:
                cells[probe.name] = known[probe.name]
                continue
            meter.name = f"probe {number}/{len(suite.probes)} {probe.name}"
            since = time.perf_counter()
            found = runs.pop(probe.run, None)
            found = found or measuring.measure(harness, probe, tasks.pop(probe.run))
            waiting[probe.run] -= 1
            if waiting[probe.run]:  # another probe reads another metric of the same answers
                runs[probe.run] = found
            make = functools.partial(measuring.cell, found, probe, since, dtype, tokenizer)
            cells[probe.name] = _agreed(make, main, accelerator)
            if meter.show is not None:
                meter.show(f"{meter.name}: {_summary(cells[probe.name])}")
    return result(suite, stage_id, time.perf_counter() - started, cells)


def probe_checkpoint(
    path_or_hub_id: str,
    suite: Suite,
    *,
    cache: Path,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[str], None] | None = None,
    verbose: bool = False,
    known: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Load a checkpoint folder or a hub model and measure a suite on it.

    Args:
        dtype: number type of the weights; `auto` is the one they were saved in.
        revision: commit, branch or tag of a hub model.
        trust_remote_code: run Python code that the model brings.
        known: as of `probe_model`.

    Raises:
        ProbeError: there is no such checkpoint, or a probe gave no usable number.
    """
    name = Path(path_or_hub_id).name
    if is_complete(known, suite):
        return probe_model(None, None, suite, cache=cache, stage_id=name, known=known)
    from eval.loading import load, load_tokenizer

    engine, source = None, (path_or_hub_id, revision, trust_remote_code)
    if suite.backend == "vllm":
        from eval.vllm_backend import served

        model, engine = served(*source, suite, dtype)
        tokenizer = load_tokenizer(*source)
    else:
        model, tokenizer = load(path_or_hub_id, dtype, revision, trust_remote_code)
    return probe_model(
        model,
        tokenizer,
        suite,
        cache=cache,
        stage_id=name,
        progress=progress,
        verbose=verbose,
        known=known,
        engine=engine,
    )


def result_path(stage_folder: Path, suite: Suite) -> Path:
    """Where a stage folder keeps the result of a suite."""
    return stage_folder / "probes" / f"{suite.name}-{suite.hash}.json"


def write_result(stage_folder: Path, result: dict[str, Any], is_second: bool = False) -> Path:
    """Write a result to its `result_path`, so that a reader sees all of it or nothing.

    A second one of the same checkpoint goes beside it; see `eval.noise.second_of`.
    """
    path = stage_folder / "probes" / f"{result['suite']}-{result['suite_hash']}.json"
    path = second_of(path) if is_second else path
    atomic_write(path, json.dumps(result, ensure_ascii=False, allow_nan=False))
    return path


def _tasks_folder(suite: Suite, cache: Path, accelerator: Any) -> Path:
    folder = cache / "suites" / f"{suite.name}-{suite.hash}"
    if accelerator is None or accelerator.num_processes == 1:
        return materialise(suite, folder)
    with accelerator.main_process_first():
        return materialise(suite, folder)


def _is_sharded(model: Any) -> bool:
    """Whether parameters are spread over ranks, so that every forward pass needs all ranks.

    Asked of the model: a group that trained a spread one measures whole copies, where they fit.
    """
    return any(
        type(parameter).__name__ == "DTensor" or hasattr(parameter, "ds_id")
        for parameter in model.parameters()
    )


def _unwrapped(model: Any, accelerator: Any) -> Any:
    """The model without DDP or DeepSpeed around it; FSDP2 shards in place and wraps nothing."""
    if accelerator is None or str(accelerator.distributed_type).endswith("FSDP"):
        return model
    return accelerator.unwrap_model(model)


def _agreed(make: Callable[[], dict[str, Any]], main: bool, accelerator: Any) -> dict[str, Any]:
    """What the main rank makes, on every rank; its error too, so that no rank waits for another."""
    found: list[Any] = [None]
    if main:
        try:
            found = [make()]
        except ProbeError as error:
            found = [error]
    if accelerator is not None and accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    if isinstance(found[0], ProbeError):
        raise found[0]
    cell: dict[str, Any] = found[0]
    return cell


def _summary(cell: dict[str, Any]) -> str:
    return (
        f"{cell['metric']} {cell['value']:.3f} (+-{cell['stderr']:.3f}), "
        f"{cell['num_items']} items, {cell['seconds']:.1f} s"
    )
