"""Our probes against lm-eval's HFLM, on the same model in memory, in one run, by turns.

    python -m tests.bench.probing [--limit 100] [--generated 20] [--repeats 2] [--only hellaswag]

Every task of the quickstart suite, and HellaSwag, LAMBADA and GSM8K's solutions, scored, of $CPT_DATA where
that is there; with --generated also GSM8K answered, of so many items. All sides run lm-eval's `evaluate`:
HFLM as lm-eval runs it, HFLM with freed memory kept as `cpt` does on a CPU, that with four times the rows
in a batch, and ours. They differ in more than shared work: ours fills a batch by tokens, so that it holds
more sequences than the suite's rows where they are short or begin alike, and up to four times the rows
where it generates; the third column says what bigger batches alone are worth. Each side is built once for a
suite and has seen one item of a task before its clock runs; who begins changes with every task and repeat.

Told are seconds, the largest difference of two log-likelihoods, whether every metric is equal, and where
the time goes: the backbone, the LM head, making tokens, the rest of the model's class (masks, log-softmax,
waiting for stop words), and lm-eval around it. Without --model it is the quickstart's. Written to
results/probing.* after every task; some twelve minutes a repeat for the quickstart suite and the rest at 60
items, on two cores.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.probing_sides import PARTS, SIDES, Side, largest_difference, same

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
    parser.add_argument("--generated", type=int, default=0, help="items of GSM8K to answer")
    parser.add_argument("--repeats", type=int, default=2)
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
        sides = [Side(name, model, tokenizer, suite) for name in SIDES]
        for probe in suite.probes.values():
            most = given.generated if probe.name == "gsm8k" else limit
            if given.only in (None, probe.name) and most != 0:
                limited = replace(probe, limit=most) if most else probe
                task = by_turns(sides, limited, folder, given.repeats, len(found["tasks"]))
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
    sides: Sequence[Side], probe: Any, folder: Path, repeats: int, first: int = 0
) -> dict[str, Any]:
    """One task on all sides, after each has seen one item of it; `first` says who begins."""
    for side in sides:
        side.run(replace(probe, limit=1), folder)
    runs: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for repeat in range(repeats):
        start = (first + repeat) % len(sides)
        for side in [*sides[start:], *sides[:start]]:
            runs[side.name].append(side.run(probe, folder))
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
    ratios = " | ".join(f"{side} / ours" for side in SIDES if side != "ours")
    lines = [
        "# Probing: lm-eval's HFLM and ours, by turns in one run",
        "",
        f"`python -m tests.bench.probing`: {found['model']}, {found['dtype']}, {found['device']}, "
        f"{found['threads']} threads, median of {found['repeats']}. Seconds; the difference is that of "
        f"the two log-likelihoods that differ most (for texts: whether all are equal). HFLM 4x has four "
        f"times the suite's rows in a batch; ours fills batches by tokens, which is more rows where they "
        f"are short or begin alike.",
        "",
        f"| task | items | {' | '.join(SIDES)} | {ratios} | difference | metrics equal |",
        "|---" * (2 * len(SIDES) + 3) + "|",
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
