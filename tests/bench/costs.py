"""What each hook costs: time of an optimizer step and peak memory, as ratios to a stage without hooks.

    python -m tests.bench.costs [--steps 7] [--only kl] [--folder KEEP]

SmolLM2-135M on 2,048 tokens an optimizer step (8 packed rows of 256, all of them labels), each hook in a
process of its own, on the GPU where there is one. What a hook does to gradients and weights stands apart
from the rest of a step, so it is timed there, beside that rest. A hook that adds to the loss is switched off
in every second step, and its cost is the ratio of both medians. What changes the model or the rows is
compared with the process without hooks. A machine may be a third slower for a minute: between steps each
process times one product of matrices, the pace, and steps are compared in paces. The first step is left out;
what a hook does once, such as a Fisher, is told apart (`once_seconds`). For the hooks that need an earlier
model the computed floor is printed too: that model's forward pass and its head at the scored tokens, beside
the step without. What stands on an adapter is compared with the adapter alone. Memory is a process's peak,
compared with that of the one without hooks. Written to cpt/hooks/costs.json, which `cpt methods` shows; a
hook that was measured before in the same folder is not measured again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOKENS, ROWS = 256, 8
RESULT = ROOT / "cpt" / "hooks" / "costs.json"
OLD = {"samples": 16}

#: Rows of the table -> hooks as a recipe lists them. Those named as a hook stand for it in the table of
#: `cpt methods`; `hook (variant)` is in the card of the hook.
CASES: dict[str, list[Any]] = {
    "none": [],
    "replay": [{"replay": {"share": 0.2}}],
    "replay (loss)": [{"replay": {"mode": "loss", "batch_size": 8}}],
    "kl": [{"kl": {"beta": 0.05}}],
    "kl (adapter off)": [{"lora": {}}, {"kl": {"beta": 0.05}}],
    "lwf": [{"lwf": {"inputs": "new"}}],
    "lwf (general)": [{"lwf": {"inputs": "general", "rows_of": "previous", "batch_size": 8}}],
    "der": [{"der": {"of": "previous", "size": 32, "k": 64, "batch_size": 8}}],
    "l2_sp": ["l2_sp"],
    "ewc": [{"ewc": {"strength": 1e-6, **OLD}}],
    "ewc (proximal)": [{"ewc": {"strength": 1e-6, "style": "proximal", **OLD}}],
    "online_ewc": [{"online_ewc": {"strength": 1e-6, "of": "previous", **OLD}}],
    "mas": [{"mas": {"strength": 1e-6, **OLD}}],
    "si": ["si"],
    "agem": [{"agem": {"of": "previous", "batch_size": 8}}],
    "gem": [{"gem": {"of": ["previous"], "batch_size": 8}}],
    "lora": ["lora"],
    "o_lora": [{"o_lora": {"of": []}}],
    "osf": ["osf"],
    "freeze": [{"freeze": {"train": ["attn_proj"]}}],
    "ema": ["ema"],
    "interpolate": ["interpolate"],
}

#: What a case is compared with, where that is not a stage without hooks.
BESIDE = {"kl (adapter off)": "lora"}
#: Where a hook acts outside the loss and its gradient.
APART = {"pull", "project", "track"}
#: Where a hook acts that can be switched off for a step.
STEPS = {"penalty", *APART}


def main() -> None:
    """Measure every case in a process of its own, and write the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--only", default=None, help="one case (and `none`)")
    parser.add_argument("--folder", type=Path, default=None, help="work here and keep it")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--case", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cpt-costs-"))
    if given.case:
        _measure(given.case, given.steps, folder)
        return
    _prepare(folder)
    asked = [case for case in CASES if given.only in (None, case)]
    needed = {"none", *asked, *(BESIDE.get(case, "none") for case in asked)}
    # What others are compared with comes before them.
    wanted = sorted((case for case in CASES if case in needed), key=BESIDE.__contains__)
    found = {}
    for case in wanted:
        beside = BESIDE.get(case, "none")
        if row := _measured(case, given.steps, folder):
            found[case] = row
            if beside in found:
                print(_line(case, row, found[beside]), flush=True)
    costs = ratios(found)
    result = {
        "machine": found["none"]["machine"],
        "command": "make bench-costs",
        "work": f"SmolLM2-135M, sft, {ROWS} packed rows of {TOKENS} tokens a step",
        "seconds_without": round(found["none"]["seconds"], 2),
        "bytes_without": found["none"]["memory"],
        "costs": costs,
    }
    given.result.write_text(json.dumps(result, indent=1) + "\n")


def _measured(case: str, steps: int, folder: Path) -> dict[str, Any] | None:
    """What a process finds of a case, or what one has found before; None where it fails."""
    note = folder / f"{case}.json"
    if not note.is_file():
        command = [sys.executable, "-m", "tests.bench.costs", "--case", case]
        command += ["--steps", str(steps), "--folder", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{case}: failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return None
    row: dict[str, Any] = json.loads(note.read_text())
    return row


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What `cpt methods` shows of each case; those whose other side was not measured are left out."""
    costs: dict[str, dict[str, Any]] = {}
    for case, row in found.items():
        beside = BESIDE.get(case, "none")
        if beside not in found:
            continue
        costs[case] = {
            "step": round(row["step"] / row.get("without", found[beside]["step"]), 3),
            "memory": round(row["memory"] / found[beside]["memory"], 3),
            "once_seconds": round(row["once"], 1),
            "steps": row["steps"],
        }
        if beside != "none":
            costs[case]["relative_to"] = beside
    return costs


def _line(case: str, row: dict[str, Any], none: dict[str, Any]) -> str:
    without = row.get("without", none["step"])
    told = f", computed floor {1 + row['floor'] / without:.3f}" if row["floor"] else ""
    return (
        f"{case:18} step x {row['step'] / without:.3f}{told}, memory x "
        f"{row['memory'] / none['memory']:.3f}, once {row['once']:.1f} s"
    )


def _prepare(folder: Path) -> None:
    """The model as a finished stage that left rows, and rows to train on."""
    from cpt.manifest import Manifest
    from cpt.model_source import materialise
    from cpt.read_recipe import load

    stage = folder / "stages" / "pretrain-0"
    if (stage / "manifest.json").is_file():
        return
    recipe = load(ROOT / "recipes" / "quickstart" / "chain.yaml", [])
    materialise(recipe.model, stage / "checkpoint")
    text = (ROOT / "cpt" / "hooks" / "base.py").read_text()
    pieces = [text[start : start + 900] for start in range(0, len(text) - 900, 150)]
    lines = [json.dumps({"text": piece}) for piece in pieces]
    (stage / "exemplars.jsonl").write_text("\n".join(lines[::2]) + "\n")
    (folder / "new.jsonl").write_text("\n".join(lines[1::2]) + "\n")
    Manifest(id="pretrain-0", kind="pretrain", name="pretrain").write(stage)


def _measure(case: str, steps: int, folder: Path) -> None:
    """Train a few steps, in this process; a hook that can be switched off is so in every second one."""
    import resource
    import shutil

    import torch

    from cpt.hooks.base import points
    from cpt.hooks.stack import HookStack
    from cpt.hooks.trainer import _Hooks
    from cpt.read_recipe import check_stage
    from stages import under_way
    from stages.base import Job
    from stages.opening import build_hooks
    from stages.run import run

    tree = {
        "kind": "sft",
        "data": {"path": str(folder / "new.jsonl")},
        "train": {
            "max_steps": steps,
            "batch_size": ROWS,
            "packing": True,
            "max_length": TOKENS,
            "learning_rate": 1e-6,
            "logging_steps": 1,
        },
        "micro_batch": ROWS,
        "hooks": CASES[case],
    }
    ends: list[float] = []
    begins: list[float] = []
    paces: list[float] = []
    measured: list[float] = []
    inside: list[float] = []
    is_on = [True]
    at, measure, merge = HookStack.at, HookStack.measure, HookStack.merge
    edit, track = _Hooks._edit, HookStack.track
    batches = _Hooks.get_batch_samples

    def switched_at(stack: HookStack, point: str) -> list[Any]:
        return at(stack, point) if is_on[0] or point not in STEPS else []

    def timed_measure(stack: HookStack, model: Any) -> None:
        began = time.monotonic()
        measure(stack, model)
        measured.append(time.monotonic() - began)

    def between() -> None:
        ends.append(_now())
        paces.append(_pace())
        inside.append(0.0)
        begins.append(_now())

    def timed_batches(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        """The step before ends where this one takes its rows."""
        between()
        if is_switched:
            is_on[0] = len(ends) % 2 == 1
        return batches(trainer, *args, **kwargs)

    def timed(function: Any) -> Any:
        def with_time(*args: Any) -> Any:
            began = _now()
            found = function(*args)
            inside[-1] += _now() - began
            return found

        return with_time

    def timed_merge(stack: HookStack, model: Any) -> Any:
        """Right behind the last step."""
        between()
        return merge(stack, model)

    HookStack.at = switched_at  # type: ignore[method-assign, assignment]
    HookStack.merge = timed_merge  # type: ignore[method-assign, assignment]
    HookStack.measure = timed_measure  # type: ignore[method-assign, assignment]
    HookStack.track = timed(track)  # type: ignore[method-assign]
    _Hooks._edit = timed(edit)  # type: ignore[method-assign]
    _Hooks.get_batch_samples = timed_batches  # type: ignore[method-assign, assignment]
    parent = folder / "stages" / "pretrain-0"
    output = folder / "stages" / "sft-0"
    job = Job(
        name="sft",
        id="sft-0",
        spec=check_stage(tree, "sft.yaml"),
        seed=1,
        parent=str(parent),
        roles={},
        output=output,
        inputs={},
        parents={"parent": "pretrain-0"},
        store=folder / case,  # what is measured once is measured in every case
    )
    own = build_hooks(job)[len(CASES[BESIDE.get(case, "none")]) :]
    acts = {point for hook in own for point in points(hook)}
    is_apart = bool(acts & APART) and not acts & {"adapt", "mix", "penalty"}
    is_switched = bool(acts & STEPS) and not acts & {"adapt", "mix"} and not is_apart
    under_way.NUM_SAMPLES = 0  # answers before and after take longer than a step
    found = run(job, lambda line: None)
    assert found is not None  # one process keeps the whole model
    model = found[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    lengths = [end - start for start, end in zip(begins[:-1], ends[1:], strict=True)][1:]
    around = [(before + after) / 2 for before, after in pairwise(paces)][1:]
    in_paces = [length / pace for length, pace in zip(lengths, around, strict=True)]
    row = {
        "step": statistics.median(in_paces[1::2] if is_switched else in_paces),
        "seconds": statistics.median(lengths),
        "memory": peak,
        "once": measured[0],
        "steps": steps,
        "floor": _floor(model) if case in ("kl", "lwf") else 0.0,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if is_switched:
        row["without"] = statistics.median(in_paces[::2])
    if is_apart:
        apart = [own / pace for own, pace in zip(inside[1:-1], around, strict=True)]
        row["without"] = statistics.median(in_paces) - statistics.median(apart)
    shutil.rmtree(output)
    (folder / f"{case}.json").write_text(json.dumps(row))


def _now() -> float:
    """Seconds, when the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def _pace() -> float:
    """Seconds of a fixed piece of work."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = torch.ones(2_048, 576, device=device), torch.ones(576, 49_152, device=device)
    began = _now()
    for _ in range(100 if device == "cuda" else 1):
        left @ right
    return _now() - began


def _floor(model: Any) -> float:
    """Paces of an earlier model's forward pass, and of both heads at the scored tokens."""
    import torch

    from cpt.chunked import CHUNK

    ids = torch.randint(100, 40_000, (ROWS, TOKENS), device=model.device)
    head = model.get_output_embeddings()

    def once() -> float:
        began = time.monotonic()
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            flat = hidden.flatten(0, 1)
            for start in range(0, len(flat), CHUNK):
                logits = head(flat[start : start + CHUNK])  # the earlier model's
                # This model's: its logits, and from their gradient those of hidden states and head.
                own = head(flat[start : start + CHUNK])
                own @ head.weight
                own.T @ flat[start : start + CHUNK]
                logits.log_softmax(-1)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic() - began

    once()
    return statistics.median(once() / _pace() for _ in range(3))


if __name__ == "__main__":
    main()
