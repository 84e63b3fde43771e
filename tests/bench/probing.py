"""Our probes against lm-eval's HFLM, on the same model in memory, in one run, by turns.

    python -m tests.bench.probing [--model PATH] [--limit 100] [--repeats 1] [--only hellaswag]

Every task of the quickstart suite, and HellaSwag, LAMBADA and GSM8K (its solutions scored, and generated) of
$CPT_DATA where that is there. All sides run lm-eval's `evaluate` with the suite's batch size: HFLM as lm-eval
runs it, HFLM with freed memory kept as `cpt` does on a CPU, and ours. Told are seconds, the largest
difference of two log-likelihoods, whether every metric is equal, and where the time goes: the backbone, the
LM head, making tokens, the rest of the model's class (masks, log-softmax, waiting for stop words), and
lm-eval around it. Without --model it is the quickstart's. Written to results/probing.* after every task;
some five minutes for the quickstart suite on two cores, and twenty for the rest at 100 items.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
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
        found = None
        for found in measured(given, Path(work)):
            given.folder.mkdir(parents=True, exist_ok=True)
            (given.folder / "probing.json").write_text(json.dumps(found, indent=1) + "\n")
            (given.folder / "probing.md").write_text(table(found))
    if found is None:
        parser.error(f"--only {given.only}: there is no such task")
    print(table(found))


def measured(given: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """What is known after each task."""
    import torch

    from eval.suite import load_suite, materialise
    from tests.bench import probing_tasks

    model, tokenizer = _model(given.model, work)
    data = Path(os.environ.get("CPT_DATA", ROOT.parent / "shared" / "data"))
    shared, skipped = probing_tasks.write(data, work / "shared", given.limit)
    for line in skipped:
        print(line, file=sys.stderr)
    found: dict[str, Any] = {
        "model": str(given.model or RECIPE.relative_to(ROOT)),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "repeats": given.repeats,
        "skipped": skipped,
        "tasks": {},
    }
    for path, limit in ((QUICKSTART, given.quickstart_limit), (shared, None)):
        if path is None:
            continue
        suite = load_suite(path)
        folder = materialise(suite, work / "tasks" / suite.name)
        for probe in suite.probes.values():
            if given.only in (None, probe.name):
                limited = replace(probe, limit=limit) if limit else probe
                task = by_turns(model, tokenizer, suite, limited, folder, given.repeats)
                found["tasks"][probe.name] = {"suite": suite.name, **task}
                print(_row(probe.name, task), file=sys.stderr, flush=True)
                yield found


def _model(path: Path | None, work: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cpt.model_source import materialise
    from launch.opening import open_chain

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
    theirs, ours = runs["HFLM"][0], runs["ours"][0]
    seconds = {s: statistics.median(r["parts"]["all"] for r in runs[s]) for s in SIDES}
    return {
        "items": len(ours["answers"]),
        "seconds": {side: round(value, 2) for side, value in seconds.items()},
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
        "| task | items | HFLM | HFLM kept | ours | ratio | ratio kept | difference | metrics equal |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, task) for name, task in tasks.items()),
    ]
    for suite in dict.fromkeys(task["suite"] for task in tasks.values()):
        seconds = {
            side: sum(task["seconds"][side] for task in tasks.values() if task["suite"] == suite)
            for side in SIDES
        }
        lines.append(f"| **{suite}** | | {_seconds(seconds)} | | |")
    lines += [
        "",
        f"Where the seconds go, {' / '.join(SIDES)}:",
        "",
        f"| task | {' | '.join(PARTS)} |",
    ]
    lines.append("|---" * (len(PARTS) + 1) + "|")
    for name, task in tasks.items():
        cells = [" / ".join(f"{task['parts'][s][p]:.2f}" for s in SIDES) for p in PARTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\n{line}" for line in found["skipped"]]
    return "\n".join(lines) + "\n"


def _row(name: str, task: dict[str, Any]) -> str:
    gap = task["difference"]
    shown = "texts differ" if gap is None else f"{gap:.1e}"
    equal = "yes" if task["equal"] else "no"
    return f"| {name} | {task['items']} | {_seconds(task['seconds'])} | {shown} | {equal} |"


def _seconds(seconds: dict[str, float]) -> str:
    """Of every side, and how many times ours each of the others is."""
    numbers = [f"{seconds[side]:.2f}" for side in SIDES]
    ratios = [f"{seconds[side] / seconds['ours']:.2f}" for side in SIDES if side != "ours"]
    return " | ".join(numbers + ratios)


if __name__ == "__main__":
    main()
