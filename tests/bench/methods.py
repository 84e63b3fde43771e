"""What each method keeps and costs on protocols TA and TB, next to the reference numbers of `methods.md` 7.3.

    python -m tests.bench.methods [--seeds 3] [--only ta] [--folder KEEP]
    python -m tests.bench.methods --judge TA.json TB.json

Every seed has its own facts, language and weights; methods are compared with naive training in the same seed.
With --folder, what an interrupted call has measured is kept, and the same command goes on; a method whose
hooks or settings have changed is measured anew. With --judge nothing is measured: the tables of finished
calls become one. Results go to tests/bench/results/methods.json and methods.md. The exit code is 1 where a
target of `tests.bench.targets` is missed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.general_and_skill import GeneralAndSkill
from tests.bench.method_list import GENERAL_AND_SKILL, TASK_TABLES, Reference
from tests.bench.protocols import Method, checked_hooks
from tests.bench.targets import judged
from tests.bench.task_tables import TaskTables

RESULTS = Path(__file__).resolve().parent / "results"
PROTOCOLS: dict[str, tuple[Any, Sequence[tuple[Method, Reference]], tuple[str, ...]]] = {
    "ta": (TaskTables, TASK_TABLES, ("new", "old", "first", "bwt", "min")),
    "tb": (GeneralAndSkill, GENERAL_AND_SKILL, ("task", "general", "kl", "drift")),
}
#: What forgetting is called in each.
KEPT = {"ta": "old", "tb": "general"}


def main() -> int:
    """Measure, judge and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(PROTOCOLS), default=None)
    parser.add_argument("--method", default=None, help="one method by its name")
    parser.add_argument("--folder", type=Path, default=None, help="work here and keep it")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--judge", type=Path, nargs="+", metavar="FILE", help="methods.json")
    given = parser.parse_args()
    if given.judge:
        return _write(given.results, joined([json.loads(file.read_text()) for file in given.judge]))
    check_methods()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cpt-methods-"))
    folder.mkdir(parents=True, exist_ok=True)
    _quiet()
    names = [given.only] if given.only else sorted(PROTOCOLS)
    todo = [
        (seed, name, method)
        for seed in range(given.seeds)
        for name in names
        for method, _ in PROTOCOLS[name][1]
        if given.method in (None, method.name)
    ]
    began = time.monotonic()
    for done, (seed, name, method) in enumerate(todo):
        row = _measured(folder, seed, name, method)
        left = (time.monotonic() - began) / (done + 1) * (len(todo) - done - 1)
        numbers = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
        print(
            f"{done + 1}/{len(todo)} {name} seed {seed} {method.name}: {numbers}  "
            f"[{left / 60:.0f} min left]",
            file=sys.stderr,
            flush=True,
        )
    result = {
        "command": f"python -m tests.bench.methods --seeds {given.seeds}",
        "seeds": given.seeds,
        "machine": _machine(),
        "tables": {name: _table(folder, name, given.seeds) for name in names},
    }
    return _write(given.results, result)


def check_methods() -> None:
    """Build the hooks of every method, so that none is refused when hours of others are behind it.

    Raises:
        CptError: a setting that a hook does not take.
    """
    for name, (_, methods, _) in PROTOCOLS.items():
        for method, _ in methods:
            checked_hooks(method.first, None, "pretrain" if name == "tb" else "sft", method.name)
            checked_hooks(method.hooks, method.train, "sft", method.name)


def joined(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several calls, each of other protocols, as one.

    Raises:
        SystemExit: they have other numbers of seeds.
    """
    seeds = {result["seeds"] for result in results}
    if len(seeds) > 1:
        raise SystemExit(f"--judge: results of {sorted(seeds)} seeds; measure both with one number")
    tables = {name: rows for result in results for name, rows in result["tables"].items()}
    return {**results[0], "tables": dict(sorted(tables.items()))}


def _write(folder: Path, result: dict[str, Any]) -> int:
    """Judge and write. Returns: 1 where a target is missed."""
    told = {name: judged(name, rows) for name, rows in result["tables"].items()}
    missed = [target for _, targets in told.values() for target in targets]
    result |= {"tables": {name: rows for name, (rows, _) in told.items()}, "missed": missed}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "methods.json").write_text(json.dumps(result, indent=1) + "\n")
    text = "\n\n".join(_markdown(name, rows) for name, (rows, _) in told.items())
    (folder / "methods.md").write_text(f"`{result['command']}`\n\n{text}\n")
    print(text)
    for target in missed:
        print(f"missed: {target}", file=sys.stderr)
    return 1 if missed else 0


def _quiet() -> None:
    import transformers
    from datasets import disable_progress_bars

    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _measured(folder: Path, seed: int, name: str, method: Method) -> dict[str, float]:
    """One method in one seed; what was measured before is read."""
    note = _note(folder, seed, name, method)
    if note.is_file():
        return dict(json.loads(note.read_text()))
    protocol = PROTOCOLS[name][0](folder / f"{name}-{seed}", seed)
    row: dict[str, float] = protocol.measure(method)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(row))
    return row


def _note(folder: Path, seed: int, name: str, method: Method) -> Path:
    """Where a method's numbers are kept; with other hooks or settings it is another file."""
    file = f"{method.name}-{method.key()}.json"
    return folder / f"{name}-{seed}" / "results" / file


def _table(folder: Path, name: str, seeds: int) -> list[dict[str, Any]]:
    _, methods, columns = PROTOCOLS[name]
    found = {
        method.name: [
            json.loads(_note(folder, seed, name, method).read_text()) for seed in range(seeds)
        ]
        for method, _ in methods
        if _note(folder, 0, name, method).is_file()
    }
    rows = []
    for method, reference in methods:
        if method.name not in found:
            continue
        runs = found[method.name]
        row: dict[str, Any] = {"method": method.name, "hooks": list(method.hooks)}
        for column in columns:
            values = [run[column] for run in runs if column in run]
            if values:
                row[column] = interval(values)
        kept = KEPT[name]
        naive = found.get("naive", [])
        if naive and method.name != "naive":
            gaps = [run[kept] - other[kept] for run, other in zip(runs, naive, strict=True)]
            row[f"{kept}_over_naive"] = interval(gaps)
        row["reference"] = {column: list(value) for column, value in reference.items()}
        rows.append(row)
    return rows


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % t-interval; 0 wide for one value."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    error = statistics.stdev(values) / len(values) ** 0.5
    return mean, float(t.ppf(0.975, len(values) - 1)) * error


def _machine() -> dict[str, Any]:
    import os
    import platform

    import torch

    return {"cores": os.cpu_count(), "processor": platform.machine(), "torch": torch.__version__}


def _markdown(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = PROTOCOLS[name][2]
    kept = KEPT[name]
    references = [f"7.3: {column}" for column in columns[:2]]
    head = ["method", *columns, f"{kept} - naive", *references, "target"]
    lines = [f"**{name.upper()}**", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [row["method"], *(_shown(row.get(column)) for column in columns)]
        cells.append(_shown(row.get(f"{kept}_over_naive")))
        cells += [_shown(row["reference"].get(column)) for column in columns[:2]]
        cells.append(row.get("target") or "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: Sequence[float | None] | None) -> str:
    if value is None:
        return "-"
    mean, half = value
    return f"{mean:.3f}" + (f" +- {half:.3f}" if half else "")


if __name__ == "__main__":
    sys.exit(main())
