"""Tokens per second of each stage kind without hooks, against the plain TRL trainer on the same token rows.

    python -m tests.bench.throughput [--size smollm2-135m] [--pairs 5] [--steps 8] [--only sft]
    python -m tests.bench.throughput --device cuda

Each side is a process of its own; the two take turns, first the one and then the other side beginning. Both
read the rows that our data path made (packed ones with their boundaries), compute in the same type on the
same weights, and keep freed memory alike (`cpt.memory`). The number is tokens of the steps behind the second
one over their time; the result the median of the pairs' ratios, with a 95 % t-interval of their logarithm.
What lies before the first step and behind the last one is not in it: `tests/bench/overhead.py` has that.
On a CPU our side scores the positions with labels only (`stages.labels_only`), and plain TRL all of them.

On an accelerator (`--device cuda`) it also trains, in bf16, a model of SmolLM2-135M's shape and the largest
one of SIZES that fits: tokens per second, share of the peak FLOP/s (6 N FLOP a token, N all parameters, no
attention), peak memory, and each hook's step time as a ratio to that without hooks. Weights are random:
speed does not depend on them, and nothing is fetched. Written to tests/bench/results/throughput.{json,md}.
"""

import argparse
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.throughput_rows import SIZES, prepare
from tests.bench.throughput_sides import CASES, measure
from tests.bench.throughput_table import written

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"
TARGET = 0.98


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=SIZES, default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", default=None, help="one case")
    parser.add_argument("--peak", type=float, default=None, help="TFLOP/s in bf16, dense")
    parser.add_argument("--folder", type=Path, default=None, help="work here and keep it")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        measure(json.loads(given.side))
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cpt-throughput-"))
    folder.mkdir(parents=True, exist_ok=True)
    asked = {name: case for name, case in CASES.items() if given.only in (None, name)}
    prepare(folder, given.size)
    result: dict[str, Any] = {
        "command": f"python -m tests.bench.throughput {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(given.device),
        "size": given.size,
        "steps": given.steps,
        "target": TARGET,
        "ratios": {},
    }
    for name in asked:
        pairs = [_pair(name, number, given, folder) for number in range(given.pairs)]
        result["ratios"][name] = ratio(pairs)
        print(name, json.dumps(result["ratios"][name]), flush=True)
    if given.device == "cuda":
        from tests.bench.throughput_gpu import on_accelerator

        result["accelerator"] = on_accelerator(folder, given.steps, given.peak, run)
    written(result, given.results)
    if given.folder is None:
        shutil.rmtree(folder)


def machine(device: str) -> str:
    """What it ran on."""
    if device == "cpu":
        import os

        return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    import torch

    return str(torch.cuda.get_device_name())


def ratio(pairs: list[dict[str, float]]) -> dict[str, Any]:
    """The median ratio of ours to plain TRL, with a t-interval of the mean logarithm; none for one pair."""
    from scipy.stats import t

    logs = [math.log(pair["ours"] / pair["plain"]) for pair in pairs]
    found: dict[str, Any] = {
        "ours": round(statistics.median(pair["ours"] for pair in pairs), 1),
        "plain": round(statistics.median(pair["plain"] for pair in pairs), 1),
        "ratio": round(math.exp(statistics.median(logs)), 3),
        "pairs": [round(math.exp(log), 3) for log in logs],
    }
    if len(logs) > 1:
        half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
        mean = statistics.fmean(logs)
        found["interval"] = [round(math.exp(mean - half), 3), round(math.exp(mean + half), 3)]
    return found


def _pair(name: str, number: int, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    sides = ("ours", "plain") if number % 2 == 0 else ("plain", "ours")
    found = {}
    for side in sides:
        task = {
            "case": name,
            "side": side,
            "steps": given.steps,
            "device": given.device,
            "folder": str(folder),
            "hooks": [],
            "note": f"{name}-{side}-{number}",
        }
        found[side] = float(run(task)["tokens_per_second"])
    return found


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own; what was measured before in the same folder is not measured again.

    Raises:
        SystemExit: it failed.
    """
    note = Path(task["folder"]) / f"{task['note']}.json"
    if not note.is_file():
        command = [sys.executable, "-m", "tests.bench.throughput", "--side", json.dumps(task)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{task['note']}: failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(note.read_text()))


if __name__ == "__main__":
    main()
