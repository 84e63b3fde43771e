"""Our probes against lm-eval's HFLM, on the same model in memory, in one run, by turns.

    python -m tests.bench.probing [--model PATH] [--limit 100] [--repeats 1] [--only hellaswag]

Every task of the quickstart suite, and HellaSwag, LAMBADA and GSM8K (its solutions scored, and generated) of
$CPT_DATA where that is there. Both sides run lm-eval's `evaluate` with the suite's batch size. Told are
seconds, the largest difference of two log-likelihoods, whether every metric is equal, and where the time
goes: the backbone, the LM head, making tokens, the rest of the model's class (masks, log-softmax, waiting
for stop words), and lm-eval around it. Without --model it is the quickstart's. Written to results/probing.*.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.probing_sides import PARTS, SIDES, largest_difference, run, same

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
RECIPE = ROOT / "recipes" / "quickstart" / "chain.yaml"
QUICKSTART = ROOT / "configs" / "probes" / "quickstart.yaml"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint folder")
    parser.add_argument("--limit", type=int, default=100, help="items of each task of $CPT_DATA")
    parser.add_argument("--quickstart-limit", type=int, default=None, help="of the quickstart's")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", default=None, help="one task")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="for probing.json and .md")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="cpt-probing-") as work:
        found = measure(given, Path(work))
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "probing.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.folder / "probing.md").write_text(table(found))
    print(table(found))


def measure(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run every task on both sides."""
    import torch

    from eval.suite import load_suite, materialise
    from tests.bench import probing_tasks

    model, tokenizer = _model(given.model, work)
    data = Path(os.environ.get("CPT_DATA", ROOT.parent / "shared" / "data"))
    shared, skipped = probing_tasks.write(data, work / "shared", given.limit)
    for line in skipped:
        print(line, file=sys.stderr)
    tasks: dict[str, Any] = {}
    for path, limit in ((QUICKSTART, given.quickstart_limit), (shared, None)):
        if path is None:
            continue
        suite = load_suite(path)
        folder = materialise(suite, work / "tasks" / suite.name)
        for probe in suite.probes.values():
            if given.only in (None, probe.name):
                limited = replace(probe, limit=limit) if limit else probe
                sides = by_turns(model, tokenizer, suite, limited, folder, given.repeats)
                tasks[probe.name] = {"suite": suite.name, **sides}
                print(f"{probe.name}: {_row(probe.name, tasks[probe.name])}", file=sys.stderr)
    return {
        "model": str(given.model or RECIPE.relative_to(ROOT)),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "repeats": given.repeats,
        "skipped": skipped,
        "tasks": tasks,
    }


def _model(path: Path | None, work: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cpt.memory import keep_freed_memory
    from cpt.model_source import materialise
    from launch.opening import open_chain

    keep_freed_memory()  # as `cpt run` and `cpt probe` do; it serves both sides
    if path is None:
        path = materialise(open_chain(RECIPE, [], work).plan.recipe.model, work / "base")
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, AutoTokenizer.from_pretrained(path)


def by_turns(
    model: Any, tokenizer: Any, suite: Any, probe: Any, folder: Path, repeats: int
) -> dict[str, Any]:
    """One task on both sides, after both have seen one item of it."""
    run("ours", model, tokenizer, suite, replace(probe, limit=1), folder)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in SIDES[:: 1 if repeat % 2 == 0 else -1]:
            runs[side].append(run(side, model, tokenizer, suite, probe, folder))
    theirs, ours = (runs[side][0] for side in SIDES)
    seconds = {s: statistics.median(r["parts"]["all"] for r in runs[s]) for s in SIDES}
    return {
        "items": len(ours["answers"]),
        "seconds": {side: round(value, 2) for side, value in seconds.items()},
        "ratio": round(seconds["HFLM"] / seconds["ours"], 2),
        "difference": largest_difference(theirs["answers"], ours["answers"]),
        "equal": same(theirs["metrics"], ours["metrics"]),
        "metrics": {side: runs[side][0]["metrics"] for side in SIDES},
        "parts": {side: runs[side][0]["parts"] for side in SIDES},
    }


def table(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    tasks = found["tasks"]
    lines = [
        "# Probing: lm-eval's HFLM and ours, by turns in one run",
        "",
        f"`python -m tests.bench.probing`: {found['model']}, {found['dtype']}, {found['device']}, "
        f"{found['threads']} threads, median of {found['repeats']}. Seconds; the difference is that of "
        f"the two log-likelihoods that differ most (for texts: whether all are equal).",
        "",
        "| task | items | HFLM | ours | ratio | difference | metrics equal |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, task) for name, task in tasks.items()),
    ]
    for suite in dict.fromkeys(task["suite"] for task in tasks.values()):
        both = [
            sum(task["seconds"][side] for task in tasks.values() if task["suite"] == suite)
            for side in SIDES
        ]
        lines.append(
            f"| **{suite}** | | {both[0]:.1f} | {both[1]:.1f} | {both[0] / both[1]:.2f} | | |"
        )
    lines += ["", "Where the seconds go, HFLM / ours:", "", f"| task | {' | '.join(PARTS)} |"]
    lines.append("|---" * (len(PARTS) + 1) + "|")
    for name, task in tasks.items():
        cells = [" / ".join(f"{task['parts'][s][p]:.2f}" for s in SIDES) for p in PARTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\n{line}" for line in found["skipped"]]
    return "\n".join(lines) + "\n"


def _row(name: str, task: dict[str, Any]) -> str:
    seconds, gap = task["seconds"], task["difference"]
    shown = "texts differ" if gap is None else f"{gap:.1e}"
    return (
        f"| {name} | {task['items']} | {seconds['HFLM']:.2f} | {seconds['ours']:.2f} | "
        f"{task['ratio']:.2f} | {shown} | {'yes' if task['equal'] else 'no'} |"
    )


if __name__ == "__main__":
    main()
