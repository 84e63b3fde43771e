"""How far `cpt plan` is off: memory, disk and time that it foretells of a stage, and what the stage took.

    python -m tests.bench.estimates [--only sft] [--small] [--folder KEEP] [--finished RUNS]

Each case is a chain of one stage on the base model, run twice in processes of their own: 2 steps, foretold
from the machine's peak alone, and then 4 steps, foretold from what the first took. Memory is the most that
the (main) process had resident, disk the files of the stage's folder. Written to
tests/bench/results/estimates.json and .md; with --folder a case that was measured there is not run again.
With --finished the quickstart chain that lies in those runs is compared too, as it was made: all stages in
one process, whose peak is the most of them so far. That alone runs nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).resolve().parent / "results" / "estimates.json"
MODELS = {"135M": "smollm2-135m", "tiny": "tiny"}
TWO = ["launch=ddp", "num_processes=2"]

#: Name -> (model, recipe, stage, overrides of the stage, of the chain).
CASES: dict[str, tuple[str, str, str, list[str], list[str]]] = {
    "pretrain": ("135M", "quickstart", "pretrain", ["hooks=[]"], []),
    "pretrain, ema": ("135M", "quickstart", "pretrain", ["hooks=[ema]"], []),
    "sft": ("135M", "quickstart", "sft", ["hooks=[]"], []),
    "sft, kl": ("135M", "quickstart", "sft", ["hooks=[{kl: {of: base, beta: 0.1}}]"], []),
    "sft, l2_sp": ("135M", "quickstart", "sft", ["hooks=[{l2_sp: {of: base}}]"], []),
    "sft, lora": ("135M", "quickstart", "sft", ["hooks=[lora]"], []),
    "sft, checkpointing": (
        *("135M", "quickstart", "sft"),
        ["hooks=[]", "train.activation_checkpointing=true"],
        [],
    ),
    "dpo": ("135M", "quickstart", "dpo", ["hooks=[]", "micro_batch=2"], []),
    "dpo, lora": ("135M", "quickstart", "dpo", ["hooks=[lora]"], []),
    "grpo": ("135M", "quickstart", "grpo", ["hooks=[]", "reference=base"], []),
    "sft on two, ddp": ("135M", "quickstart", "sft", ["hooks=[]", "micro_batch=1"], TWO),
    "tiny sft": ("tiny", "smoke", "sft", ["hooks=[]"], []),
    "tiny sft on two, ddp": ("tiny", "smoke", "sft", ["hooks=[]", "micro_batch=1"], TWO),
}
SMALL = ("pretrain, ema", "sft", "sft, kl", "dpo, lora", "grpo", "tiny sft")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=CASES, help="this case; repeatable")
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--folder", type=Path, help="work here and keep it")
    parser.add_argument("--finished", type=Path, metavar="RUNS", help="with a quickstart chain")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cpt-estimates-"))
    names = given.only or (SMALL if given.small else () if given.finished else CASES)
    cases = {name: case(name, folder) for name in names}
    chain = finished(given.finished, folder) if given.finished else {}
    found = {
        "machine": machine(folder),
        "cases": cases,
        "summary": summary(cases),
        "chain": chain,
    }
    given.result.parent.mkdir(exist_ok=True)
    given.result.write_text(json.dumps(found, indent=1) + "\n")
    given.result.with_suffix(".md").write_text(page(found))
    print(page(found))


def case(name: str, folder: Path) -> dict[str, Any]:
    """One case, unless it is there: foretold and measured, of both runs."""
    own = folder / name.replace(", ", "-").replace(" ", "-")
    file = own / "result.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    own.mkdir(parents=True, exist_ok=True)
    model, recipe, stage, changes, chain = CASES[name]
    written = own / "chain.yaml"
    stages = {stage: str(ROOT / "recipes" / recipe / f"{stage}.yaml")}
    config = str(ROOT / "configs" / "models" / f"{MODELS[model]}.yaml")
    tree = {"name": "one", "seed": 17, "model": config, "stages": stages}
    written.write_text(yaml.safe_dump(tree))
    changes = [*chain, *(f"stages.{stage}.{change}" for change in changes)]
    # A process that makes the base model too would have had more resident than the stage.
    _run([str(written), *changes, "--until", "base"], own / "runs")
    found: dict[str, Any] = {"model": model, "changes": changes}
    for steps in (2, 4):
        given = [*changes, f"stages.{stage}.train.max_steps={steps}"]
        foretold = told(written, given, own / "runs", stage)
        _run([str(written), *given], own / "runs")
        found[str(steps)] = {"foretold": foretold, "measured": taken(written, given, own, stage)}
    file.write_text(json.dumps(found))
    return found


def _run(arguments: Sequence[str], runs: Path) -> None:
    command = [sys.executable, "-m", "launch.cli", "run", *arguments, "--runs", str(runs)]
    added = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **added})


def told(file: Path, changes: Sequence[str], runs: Path, stage: str) -> dict[str, Any]:
    """What the plan says of the stage before it is made."""
    from launch.opening import open_chain

    forecast = open_chain(file, changes, runs).needs().stages[stage]
    assert forecast.footprint is not None
    return {
        "memory": forecast.footprint.peak,
        "parts": dict(forecast.footprint.parts),
        "disk": forecast.footprint.kept,
        "seconds": forecast.making,
        "is_guess": forecast.is_guess,
    }


def taken(file: Path, changes: Sequence[str], folder: Path, stage: str) -> dict[str, Any]:
    """What the stage took."""
    from cpt import manifest
    from launch.opening import open_chain

    chain = open_chain(file, changes, folder / "runs")
    there = chain.store.stage(chain.plan.node(stage).id)
    entry = manifest.read(there)
    return {
        "memory": entry.memory["peak"],
        "disk": sum(path.stat().st_size for path in there.rglob("*") if path.is_file()),
        "seconds": sum(entry.seconds.values()),
        "load": os.getloadavg()[0],
    }


def finished(runs: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Foretold, with nothing made, and taken, of each stage of a finished quickstart chain."""
    from cpt import manifest
    from launch.opening import open_chain

    recipe = ROOT / "recipes" / "quickstart" / "chain.yaml"
    done = open_chain(recipe, [], runs)
    forecasts = open_chain(recipe, [], folder / "nothing").needs().stages
    found, peak = {}, 0.0
    for node in done.plan.nodes[1:]:
        there, forecast = done.store.stage(node.id), forecasts[node.name]
        entry = manifest.read(there)
        assert forecast.footprint is not None
        peak = max(peak, forecast.footprint.peak)
        found[node.name] = {
            "memory foretold": peak,
            "memory": entry.memory["peak"],
            "disk foretold": forecast.footprint.kept,
            "disk": sum(path.stat().st_size for path in there.rglob("*") if path.is_file()),
            "seconds foretold": forecast.making or 0.0,
            "seconds": sum(entry.seconds.values()),
        }
    return found


def machine(folder: Path) -> dict[str, Any]:
    """Where it was measured."""
    from cpt.machine_spec import this_machine

    return dict(this_machine(folder).model_dump())


#: What of which run is compared, in the order of the page.
COLUMNS = {
    "memory": ("4", "memory"),
    "disk": ("4", "disk"),
    "first guess of time": ("2", "seconds"),
    "time": ("4", "seconds"),
}


def ratios(case: Mapping[str, Any]) -> dict[str, float]:
    """Foretold over measured."""
    return {
        column: case[steps]["foretold"][what] / case[steps]["measured"][what]
        for column, (steps, what) in COLUMNS.items()
        if case[steps]["foretold"][what] is not None
    }


def summary(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each column the median ratio and the ones farthest off on either side."""
    found: dict[str, dict[str, float]] = {}
    for column in COLUMNS:
        of = [each[column] for each in map(ratios, cases.values()) if column in each]
        if of:
            found[column] = {"median": statistics.median(of), "least": min(of), "most": max(of)}
    return found


def page(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    here = found["machine"]
    lines = [
        "# What `cpt plan` foretells, and what a stage took",
        "",
        "Ratios are foretold over measured: above 1 the plan says too much. Memory is the peak of a process, "
        f"disk the stage's folder. Made by `tests/bench/estimates.py` on {here['gpu'] or 'a CPU'} "
        f"({here['tflops']:.3g} TFLOP/s by its data), {here['host_memory_gb']:.0f} GB.",
    ]
    if found["cases"]:
        lines += _cases(found)
    return "\n".join(lines + _chain(found["chain"])) + "\n"


def _cases(found: Mapping[str, Any]) -> list[str]:
    """A stage of each case alone in its process, then the farthest off."""
    lines = [
        "",
        "Each stage in a process of its own: memory and disk of 4 steps; the first guess of time follows "
        "from the machine's peak alone (2 steps), time from one finished stage of the same kind (4 after 2, "
        "with loading and saving).",
        "",
        "| case | memory, GB | ratio | disk, GB | ratio | first guess | time, s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    if busy := [name for name, case in found["cases"].items() if was_busy(case)]:
        lines[2:2] = [
            "",
            f"Other work ran on the machine beside {', '.join(busy)}: their times say little of the plan's.",
        ]
    for name, case in found["cases"].items():
        of, four = ratios(case), case["4"]["measured"]
        lines.append(
            f"| {name} | {four['memory'] / 1e9:.2f} | {of['memory']:.2f} | {four['disk'] / 1e9:.3f} | "
            f"{of['disk']:.3f} | {_told(of, 'first guess of time')} | {four['seconds']:.0f} | "
            f"{_told(of, 'time')} |"
        )
    lines += ["", "| | median | least | most |", "|---|---|---|---|"]
    lines += [
        f"| {column} | {each['median']:.2f} | {each['least']:.2f} | {each['most']:.2f} |"
        for column, each in found["summary"].items()
    ]
    return lines


def _chain(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The quickstart chain, made in one process."""
    if not stages:
        return []
    lines = [
        "",
        "The quickstart chain, all stages in one process (its peak is the most so far), its times guessed "
        "before anything was made; settings say how long a sequence may be, and rows are shorter, while "
        "prompts come on top.",
        "",
        "| stage | memory, GB | ratio | disk, GB | ratio | time, s | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in stages.items():
        memory, disk, seconds = (
            of[f"{what} foretold"] / of[what] for what in ("memory", "disk", "seconds")
        )
        lines.append(
            f"| {name} | {of['memory'] / 1e9:.2f} | {memory:.2f} | {of['disk'] / 1e9:.3f} | {disk:.3f} | "
            f"{of['seconds']:.0f} | {seconds:.2f} |"
        )
    return lines


def was_busy(case: Mapping[str, Any]) -> bool:
    """Whether more ran on the machine than the two processes that a case has at most."""
    return any(case[steps]["measured"]["load"] > 3 for steps in ("2", "4"))


def _told(ratios: Mapping[str, float], column: str) -> str:
    return f"{ratios[column]:.2f}" if column in ratios else "-"


if __name__ == "__main__":
    main()
