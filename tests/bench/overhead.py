"""What the chain costs against the same work by hand: plain TRL scripts and `lm_eval`, one process each.

    python tests/bench/overhead.py [--recipe recipes/quickstart/chain.yaml] [--repeats 3]

Both sides start from the GGUF file, train the same rows in the same stages without hooks, and measure the
same tasks on the base model and after every stage. Runs alternate; the result is the ratio of wall times.
GRPO by hand takes its reference from the model itself, as TRL does, which costs the same as the recipe's.
What the recipe's hooks cost is told apart: `hooks_ratio`, the chain with them to the chain without, and
`stage_ratios`, stage by stage without probes. Results: tests/bench/results/overhead.json (--result).
With --folder, what an interrupted call has measured is kept, and the same command goes on.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cpt import manifest
from eval.suite import Suite, materialise
from launch.opening import Chain, open_chain
from stages import kind_of
from stages.trl_args import batch_layout

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/quickstart/chain.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hooks", type=int, default=1, help="runs with hooks, for what they cost")
    parser.add_argument("--folder", type=Path, default=None, help="work here and keep it")
    parser.add_argument("--result", type=Path, default=HERE / "results" / "overhead.json")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cpt-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    for repeat in range(given.repeats):
        runs, hand = folder / f"runs-{repeat}", folder / f"hand-{repeat}"
        ours = partial(_ours, given.recipe, runs)
        _timed("cpt run baseline=naive", ours, runs)
        chain = open_chain(given.recipe, ["baseline=naive"], runs)
        _timed("TRL and lm_eval by hand", partial(_by_hand, chain, hand), hand)
        seconds = [
            [_seconds(folder / f"{side}-{number}") for number in range(repeat + 1)]
            for side in ("runs", "hand")
        ]
        result = _result(given.recipe, *seconds)
    for repeat in range(given.hooks):
        runs = folder / f"hooks-{repeat}"
        _timed("cpt run", partial(_ours, given.recipe, runs, ()), runs)
    if given.hooks:
        hooks = [_seconds(folder / f"hooks-{repeat}") for repeat in range(given.hooks)]
        result["hooks_seconds"] = hooks
        naive = statistics.median(result["ours_seconds"])
        result["hooks_ratio"] = round(statistics.median(hooks) / naive, 3)
        without, with_hooks = (
            _by_stage([folder / f"{kind}-{repeat}" for repeat in range(number)])
            for kind, number in (("runs", given.repeats), ("hooks", given.hooks))
        )
        result["stage_ratios"] = {
            name: round(with_hooks[name] / seconds, 3) for name, seconds in without.items()
        }
    given.result.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if given.folder is None:
        shutil.rmtree(folder)


def _result(recipe: Path, ours: list[float], by_hand: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(ours, by_hand, strict=True)]
    return {
        "recipe": str(recipe.relative_to(ROOT) if recipe.is_relative_to(ROOT) else recipe),
        "ours_seconds": [round(seconds, 1) for seconds in ours],
        "by_hand_seconds": [round(seconds, 1) for seconds in by_hand],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
    }


def _by_stage(folders: Sequence[Path]) -> dict[str, float]:
    """Median seconds of every trained stage: loading, training, merging and saving."""
    seconds: dict[str, list[float]] = {}
    for folder in folders:
        for file in sorted(folder.glob("stages/*/manifest.json")):
            entry = manifest.read(file.parent)
            if entry.num_steps:
                seconds.setdefault(entry.name, []).append(sum(entry.seconds.values()))
    return {name: statistics.median(several) for name, several in seconds.items()}


def _seconds(folder: Path) -> float:
    return float(folder.with_suffix(".seconds").read_text())


def _timed(name: str, work: Callable[[], None], folder: Path) -> None:
    """Time what fills `folder`, from nothing; what an earlier call has timed is not done again."""
    note = folder.with_suffix(".seconds")
    if not note.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        work()
        note.write_text(f"{time.monotonic() - began:.1f}")
    print(f"{folder.name}: {name}: {_seconds(folder):.1f} s", file=sys.stderr, flush=True)


def _run(*command: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stderr[-3000:]}")


def _ours(recipe: Path, runs: Path, changes: Sequence[str] = ("baseline=naive",)) -> None:
    command = ["-m", "launch.cli", "run", str(recipe), *changes, "--runs", str(runs)]
    _run(sys.executable, *command)


def _by_hand(chain: Chain, folder: Path) -> None:
    folder.mkdir()
    model = folder / "base"
    gguf = chain.plan.recipe.model.gguf
    if gguf:
        from cpt.model_source import gguf_file

        _run(sys.executable, str(HERE / "by_hand.py"), "convert", str(gguf_file(gguf)), str(model))
    else:
        shutil.copytree(chain.store.stage(chain.plan.nodes[0].id) / "checkpoint", model)
    assert chain.suite is not None
    tasks = materialise(chain.suite, folder / "tasks")
    _probe(model, chain.suite, tasks, folder)
    for node in chain.plan.nodes[1:]:
        assert node.spec is not None
        rows = chain.store.stage(node.id) / "exemplars.jsonl"
        held_out = _held_out(node.spec, folder / f"{node.name}-held-out.jsonl")
        output = folder / node.name
        settings = json.dumps(_settings(node))
        script = str(HERE / "by_hand.py")
        _run(
            sys.executable,
            script,
            node.kind,
            str(model),
            str(rows),
            held_out,
            str(output),
            settings,
        )
        model = output
        _probe(model, chain.suite, tasks, folder)


def _held_out(spec: Any, file: Path) -> str:
    from cpt.data import load_rows

    kind = kind_of(spec.kind, spec.file)
    rows = [
        row
        for data in spec.data
        if data.validation
        for row in load_rows(data, kind.formats, "validation").rows
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file) if rows else ""


def _settings(node: Any) -> dict[str, Any]:
    train = {key: value for key, value in node.spec.train.items() if key != "batch_size"}
    per_device, accumulation = batch_layout(
        int(node.spec.train["batch_size"]), 1, node.spec.micro_batch
    )
    return {
        **train,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
    }


def _probe(model: Path, suite: Suite, tasks: Path, folder: Path) -> None:
    """`lm_eval` twice: it applies the chat template to all tasks of a call or to none."""
    for chat in (False, True):
        names = [name for name, probe in suite.probes.items() if probe.chat is chat]
        if names:
            _run(
                *(
                    sys.executable,
                    "-m",
                    "lm_eval",
                    "--model",
                    "hf",
                    "--batch_size",
                    str(suite.batch_size),
                ),
                *("--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"),
                *("--include_path", str(tasks), "--tasks", ",".join(names), "--log_samples"),
                *(
                    "--output_path",
                    str(folder / "results"),
                    *(("--apply_chat_template",) if chat else ()),
                ),
            )


if __name__ == "__main__":
    main()
